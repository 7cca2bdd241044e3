"""The dry run at loading: what tokenizer and model do not agree on is put right, or refused by name."""

import json
import shutil

import pytest
import torch
from families import FAMILIES, HEADS, save
from torch import nn
from transformers import AutoTokenizer, BertForSequenceClassification

from qbert_opt.errors import InputFileError
from qbert_opt.models import probe as probing
from qbert_opt.models.batches import logits, single_samples, tokenize
from qbert_opt.models.loading import load_model
from qbert_opt.models.modules import from_module
from qbert_opt.models.outputs import Head
from qbert_opt.models.samples import TokenBatch

TEXTS = [("w1 w2",), ("w3 w4 w5 w6 w7 w8 w9",)]


@pytest.fixture
def folder(tiny_folder, tmp_path):
    """A copy to change."""
    return shutil.copytree(tiny_folder, tmp_path / "copy")


def patch(folder, name, **fields):
    document = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**document, **fields}))


def single_truth(folder):
    """What the model answers to each text alone, through transformers' own loading, mask and types as BERT has them."""
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    rows = []
    for (text,) in TEXTS:
        ids = [2, *(int(word[1:]) + 4 for word in text.split()), 3]
        with torch.no_grad():
            rows.append(model(input_ids=torch.tensor([ids]), return_dict=True).logits[0])
    return torch.stack(rows)


PUT_RIGHT = {
    "left padding": lambda f: patch(f, "tokenizer_config.json", padding_side="left"),
    "no padding token": lambda f: patch(f, "tokenizer_config.json", pad_token=None),
    "no attention mask": lambda f: patch(f, "tokenizer_config.json", model_input_names=["input_ids"]),
    "tuples": lambda f: patch(f, "config.json", return_dict=False),
    "everything at once": lambda f: [
        patch(f, "tokenizer_config.json", padding_side="left", pad_token=None, model_input_names=["input_ids"]),
        patch(f, "config.json", return_dict=False),
    ],
}


@pytest.mark.parametrize("what", PUT_RIGHT)
def test_kind_2_answers_in_a_batch_are_those_alone(folder, what):
    """Beside a longer text as alone, to rounding."""
    PUT_RIGHT[what](folder)
    loaded = load_model(folder)
    expected = single_truth(folder)
    torch.testing.assert_close(logits(loaded.model, tokenize(loaded.tokenizer, TEXTS, batch_size=2)), expected)
    assert loaded.tokenizer.model_max_length == 40


def test_kind_2_what_was_put_right_stays_so_in_a_written_folder(folder, tmp_path):
    """Whoever opens the tokenizer of a quantized or exported folder pads as the model was scored."""
    PUT_RIGHT["everything at once"](folder)
    load_model(folder).tokenizer.save_pretrained(tmp_path / "out")
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (again.padding_side, again.pad_token_id, again.model_max_length) == ("right", 0, 40)
    assert again.model_input_names == ["input_ids", "attention_mask"]


def test_kind_2_pairs_of_a_model_with_one_token_type(tmp_path):
    """Its second text has the only type there is."""
    folder = save(tmp_path / "model", "roberta")
    patch(folder, "config.json", type_vocab_size=1)
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    name = "roberta.embeddings.token_type_embeddings.weight"
    tensors[name] = tensors[name][:1].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    patch(folder, "tokenizer_config.json", model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    loaded = load_model(folder)
    [batch] = tokenize(loaded.tokenizer, [("w1", "w2 w3")], batch_size=1)
    assert set(batch.inputs) == {"input_ids", "attention_mask"}
    assert torch.isfinite(logits(loaded.model, [batch])).all()


def test_kind_2_a_model_with_two_token_types_keeps_them(folder):
    """The second text of a pair has the second type."""
    patch(folder, "tokenizer_config.json", model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    [batch] = tokenize(load_model(folder).tokenizer, [("w1", "w2 w3")], batch_size=1)
    assert batch.inputs["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 1]]


def test_kind_2_a_token_without_a_row(folder):
    """Added to the tokenizer, and the table was not resized."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(InputFileError, match=r"gives 'zebra' the id 64, .* table has 64 rows"):
        load_model(folder)


@pytest.mark.parametrize("padding", [0, 1, 5])
def test_kind_2_roberta_with_another_padding_index(tmp_path, padding):
    """The longest text fits, whatever the first position is."""
    folder = save(tmp_path / "model", "roberta")
    patch(folder, "config.json", pad_token_id=padding)
    loaded = load_model(folder)
    assert loaded.tokenizer.model_max_length == 40 - padding - 1
    [batch] = tokenize(loaded.tokenizer, [(" ".join(["w7"] * 90),)], batch_size=1)
    assert torch.isfinite(logits(loaded.model, [batch])).all()


@pytest.mark.parametrize("kind", ["tags", "spans"])
def test_kind_2_tokenizers_that_do_not_know_where_words_are(tmp_path, monkeypatch, kind):
    """Refused by name at loading."""
    from transformers import PreTrainedTokenizerFast

    folder = save(tmp_path / "model", "bert", kind)
    monkeypatch.setattr(PreTrainedTokenizerFast, "is_fast", False)
    with pytest.raises(InputFileError, match=rf"{kind} need a tokenizer that returns character offsets"):
        load_model(folder)


def test_kind_2_a_masked_language_model_without_a_mask(tmp_path):
    """Refused by name at loading."""
    folder = save(tmp_path / "model", "bert", "vocabulary")
    patch(folder, "tokenizer_config.json", mask_token=None)
    with pytest.raises(InputFileError, match=r"fills masks, but its tokenizer has no mask token"):
        load_model(folder)


def test_kind_2_a_window_without_room(folder):
    """A pair needs its special tokens and one of each text."""
    patch(folder, "tokenizer_config.json", model_max_length=3)
    with pytest.raises(InputFileError, match=r"reads 3 tokens at most \(its config\), and a pair of texts needs 5"):
        load_model(folder)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", HEADS)
def test_every_supported_model_passes(tmp_path, family, kind):
    """The probe refuses nothing that works."""
    load_model(save(tmp_path / "model", family, kind))


class Careless(nn.Module):
    """Averages over padding too."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(10, 4)
        self.layers = nn.ModuleList([nn.Linear(4, 4)])
        self.careful = False

    def forward(self, ids, attention_mask):
        states = self.layers[0](self.embed(ids))
        weights = attention_mask[:, :, None] if self.careful else torch.ones(*ids.shape, 1)
        return (states * weights).sum(1) / weights.sum(1)


def test_kind_2_a_module_that_padding_changes():
    """The user's own module is tried too: its shortest sample beside its longest."""
    module = Careless()
    ids = torch.tensor([[1, 2, 0, 0, 0], [3, 4, 5, 6, 7]])
    inputs = [{"ids": ids, "attention_mask": (ids > 0).long()}]
    with pytest.raises(InputFileError, match=r"module: a sample's outputs change by .* when batched with a longer one"):
        from_module(module, inputs)
    module.careful = True
    from_module(module, inputs)


def test_the_probe_sees_each_fault_that_loading_puts_right(folder):
    """Without what puts them right, the probe itself refuses: it can fail."""
    loaded = load_model(folder)
    loaded.tokenizer.padding_side = "left"
    with pytest.raises(InputFileError, match=r"outputs change by .* when batched with a longer one"):
        probing.probe(loaded.model, loaded.tokenizer, loaded.head, "tiny")
    loaded.tokenizer.padding_side = "right"
    loaded.tokenizer.model_max_length = 41
    with pytest.raises(InputFileError, match=r"tiny: tokenizer and model do not match: "):
        probing.probe(loaded.model, loaded.tokenizer, loaded.head, "tiny")
    loaded.tokenizer.model_max_length = 40
    probing.probe(loaded.model, loaded.tokenizer, loaded.head, "tiny")


def test_the_longest_text_goes_no_farther_than_the_first_block(folder, monkeypatch):
    """So that the probe stays cheap at long windows: only short texts run through the blocks."""
    loaded = load_model(folder)
    lengths = []
    second = loaded.model.bert.encoder.layer[1]
    second.register_forward_pre_hook(lambda _m, args: lengths.append(args[0].shape[1]))
    probing.probe(loaded.model, loaded.tokenizer, loaded.head, "tiny")
    assert max(lengths) <= probing.NUM_WORDS + 3


@pytest.mark.parametrize(("share", "said"), [(0.0005, 0), (0.02, 1), (0.2, None)])
def test_small_differences_are_said_and_large_ones_refused(caplog, share, said):
    """A model that adds a share of its answer for each padded position, by hand."""

    class Leaky(nn.Module):
        def forward(self, input_ids, attention_mask):
            padded = (attention_mask == 0).any(1, keepdim=True).float()
            return torch.tensor([[2.0, -1.0]]) * (1 + share * padded)

    head = Head("classes", 2, lambda model, batch: model(**batch.inputs))
    ids = torch.ones(2, 4, dtype=torch.int64)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    together = [TokenBatch({"input_ids": ids, "attention_mask": mask}, (0, 1))]
    alone = single_samples(together)
    if said is None:
        with pytest.raises(InputFileError, match=r"leaky: a sample's outputs change by 0.4 .* \(largest output 2\)"):
            probing.check_batching(head, Leaky(), together, alone, "leaky")
        return
    probing.check_batching(head, Leaky(), together, alone, "leaky")
    assert [record.getMessage() for record in caplog.records] == [
        "warning: leaky: batching with a longer text changes outputs by 2.0 %, as in convolutions or rounded inputs"
    ][:said]
