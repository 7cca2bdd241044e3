"""Models: what is read of them, and folders that are none."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from qbert_opt.costs.block_walk import ATTENTION_KINDS
from qbert_opt.errors import InputFileError
from qbert_opt.models.batches import logits, mean_tokens, tokenize
from qbert_opt.models.loading import load_model, weights_sha256
from qbert_opt.models.structure import profile_model


@pytest.fixture
def folder(tiny_folder, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(tiny_folder, tmp_path / "copy")


def change_weights(change):
    def spoil(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return spoil


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


SPOILED = {
    "no config": (lambda f: (f / "config.json").unlink(), r"is not a model folder: no config.json"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), r"config.json: is not JSON"),
    "another kind": (
        lambda f: (f / "config.json").write_text('{"model_type": "no such"}'),
        r"names model_type 'no such'",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"has no model.safetensors. Save the model"),
    "cut weights": (cut, r"model.safetensors: \d+ bytes, not a complete safetensors file"),
    "no tokenizer": (lambda f: [t.unlink() for t in f.glob("tokenizer*")], r"has no tokenizer"),
    "no head": (
        change_weights(lambda t: t.pop("classifier.weight")),
        r"weight classifier.weight is missing \(1 in all",
    ),
    "no layer": (
        change_weights(lambda t: [t.pop(n) for n in list(t) if "layer.1." in n]),
        r"weight bert.encoder.layer.1.* is missing \(16 in all",
    ),
    "NaN": (
        change_weights(lambda t: t["bert.encoder.layer.0.output.dense.weight"].view(-1)[7:8].fill_(float("nan"))),
        r"layer.0.output.dense.weight holds NaN or infinite values",
    ),
    "infinite": (
        change_weights(lambda t: t["classifier.bias"].fill_(float("inf"))),
        r"classifier.bias holds NaN or inf",
    ),
}


@pytest.mark.parametrize("spoiled", SPOILED)
def test_folders_that_are_no_model(folder, spoiled):
    """Nothing is filled in where something is missing: random weights and empty vocabularies give plausible lies."""
    spoil, message = SPOILED[spoiled]
    spoil(folder)
    with pytest.raises(InputFileError, match=message) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def test_what_is_no_folder(tmp_path):
    """A missing folder and a file are told apart."""
    with pytest.raises(InputFileError, match=r"nowhere: no such folder. Give a model folder, or a hub model"):
        load_model(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputFileError, match=r"file: is a file. Give the folder that holds config.json"):
        load_model(tmp_path / "file")


def test_pickled_weights_are_not_read(folder, tiny):
    """Weight files that can run code are refused even where they are the only ones."""
    (folder / "model.safetensors").unlink()
    torch.save(tiny.model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(InputFileError, match=r"only pytorch_model.bin, which can run code .*\.save_pretrained\("):
        load_model(folder)


def test_the_profile_counts_every_weight(tiny):
    """Matrices, tables and the rest are all parameters, once; roles and shapes are BERT's."""
    profile = profile_model(tiny)
    assert [m.kind for m in profile.matrices] == [*ATTENTION_KINDS, *ATTENTION_KINDS]
    assert [(m.rows, m.columns) for m in profile.matrices[:6]] == [(32, 32)] * 4 + [(64, 32), (32, 64)]
    assert [m.module for m in profile.matrices[:4]] == [
        f"bert.encoder.layer.0.attention.{n}" for n in ("self.query", "self.key", "self.value", "output.dense")
    ]
    assert {(t.rows, t.columns) for t in profile.tables} == {(64, 32), (40, 32), (2, 32)}
    assert [(h.rows, h.columns) for h in profile.head] == [(32, 32), (3, 32)]
    tables = sum(t.rows * t.columns for t in profile.tables)
    everything = sum(p.numel() for p in tiny.model.parameters())
    assert profile.encoder_elements + tables + profile.other_elements == everything
    assert profile.float_bytes == 4 * everything
    assert profile.fixed_bytes == tables + 4 * (64 + 40 + 2) + 2 * profile.other_elements


def test_the_hash_is_of_the_weights(tiny, tiny_folder, folder):
    """The same weights elsewhere have the same hash; one other weight has another."""
    assert load_model(folder).sha256 == tiny.sha256 == weights_sha256(tiny.model)
    change_weights(lambda t: t["classifier.bias"].add_(1e-3))(folder)
    assert load_model(folder).sha256 != tiny.sha256


def test_models_without_blocks_are_refused(tiny):
    """A model without a list of encoder blocks has no matrices to search."""
    from qbert_opt.models.loading import LoadedModel

    flat = LoadedModel("flat", nn.Sequential(nn.Linear(4, 4)), tiny.tokenizer, "")
    with pytest.raises(InputFileError, match=r"flat: no list of encoder blocks with linear layers found in Sequential"):
        profile_model(flat)


def test_batches_hold_every_text_once_and_in_order(tiny, sentences):
    """Batching by length changes neither the order of answers nor, beyond rounding, their value."""
    batches = tokenize(tiny.tokenizer, sentences.texts, batch_size=7)
    assert sorted(i for b in batches for i in b.indices) == list(range(120))
    words = [len(text[0].split()) + 2 for text in sentences.texts]  # [CLS] and [SEP]
    assert mean_tokens(batches) == sum(words) / 120
    for batch in batches:
        assert batch.mask.sum(1).tolist() == [words[i] for i in batch.indices]
    one_by_one = logits(tiny.model, tokenize(tiny.tokenizer, sentences.texts, batch_size=1))
    torch.testing.assert_close(logits(tiny.model, batches), one_by_one, atol=1e-5, rtol=0)


def test_long_texts_are_cut_to_the_models_positions(tiny):
    """A text longer than the model's 40 positions is cut, not an index error."""
    [batch] = tokenize(tiny.tokenizer, [(" ".join(["w1"] * 300),)], batch_size=4)
    assert batch.mask.sum() == 40
    assert batch.lost == (262,)
    assert logits(tiny.model, [batch]).shape == (1, 3)


def test_pairs_are_one_sample(tiny):
    """A pair is one sample, its parts joined as the tokenizer joins them."""
    [batch] = tokenize(tiny.tokenizer, [("w1 w2", "w3")], batch_size=4)
    assert batch.inputs["input_ids"].tolist() == [[2, 5, 6, 3, 7, 3]]
