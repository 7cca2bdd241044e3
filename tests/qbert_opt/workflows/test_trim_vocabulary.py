"""A model without the rows that its texts never use."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file
from subwords import TEXTS, save, trained

from qbert_opt.data.texts import LabeledTexts
from qbert_opt.errors import InputFileError, UsageError
from qbert_opt.evaluation.evaluate import outputs
from qbert_opt.models.loading import load_model
from qbert_opt.models.trimming import write_trimmed
from qbert_opt.workflows.trim_vocabulary import ROW_MAP, trim_vocabulary

ALGORITHMS = ("WordPiece", "BPE", "Unigram")
USED = LabeledTexts("used", tuple((text,) for text in TEXTS[:4]), None)
OTHERS = LabeledTexts("others", tuple((text,) for text in TEXTS[4:]), None)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A classifier's folder by algorithm."""
    root = tmp_path_factory.mktemp("models")
    return {algorithm: save(root / algorithm, algorithm, spare_rows=3, dtype=torch.float16) for algorithm in ALGORITHMS}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_answers_are_the_same_floats_and_the_rows_those_of_the_map(folders, tmp_path, algorithm):
    """In an ordinary folder: transformers opens it, and everything else of the file is as it was, in its own type."""
    loaded = load_model(folders[algorithm])
    trimmed = trim_vocabulary(loaded, [USED], tmp_path / "out", test_data=OTHERS)
    smaller = load_model(tmp_path / "out")
    assert torch.equal(outputs(smaller, USED), outputs(loaded, USED))
    rows = json.loads((tmp_path / "out" / ROW_MAP).read_text())["rows"]
    before, after = (load_file(folder / "model.safetensors") for folder in (folders[algorithm], tmp_path / "out"))
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        whole = before[name][rows] if "word_embeddings" in name else before[name]
        assert tensor.dtype == whole.dtype and (tensor == whole).all()
    assert trimmed.rows == (len(trained(algorithm).get_vocab()) + 3, len(rows))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["vocab_size"] == len(rows)
    old = json.loads((folders[algorithm] / "config.json").read_text())
    assert all(rows[config[name]] == old[name] for name in ("pad_token_id", "bos_token_id", "eos_token_id"))
    reading = trimmed.reading
    split = [
        text for (text,) in OTHERS.texts if any(index not in rows for index in loaded.tokenizer(text)["input_ids"])
    ]
    assert reading.texts_changed == len(split) > 0
    assert 0 < reading.num_dropped < reading.num_pieces < reading.num_pieces_after
    assert reading.unknown == (0, 0)


@pytest.mark.parametrize("kind", ["vocabulary", "tags"])
def test_heads_of_other_kinds(tmp_path, kind):
    """Output embeddings that are tied to the table, and their bias, are cut alike; tags are read in words."""
    folder = save(tmp_path / "model", "BPE", kind)
    trim_vocabulary(load_model(folder), [USED], tmp_path / "out")
    model, smaller = load_model(folder).model, load_model(tmp_path / "out").model
    rows = json.loads((tmp_path / "out" / ROW_MAP).read_text())["rows"]
    assert torch.equal(smaller.get_input_embeddings().weight, model.get_input_embeddings().weight[rows])
    if kind == "vocabulary":
        assert smaller.lm_head.decoder.weight is smaller.get_input_embeddings().weight
        assert torch.equal(smaller.lm_head.decoder.bias, model.lm_head.decoder.bias[rows])


def test_words_and_counts_choose_pieces(folders, tmp_path):
    """Words keep their pieces without a text, pieces as the vocabulary writes them too; rare pieces can go."""
    loaded = load_model(folders["WordPiece"])
    trim_vocabulary(loaded, [], tmp_path / "words", words=["kitchen", "##ing"])
    words = load_model(tmp_path / "words").tokenizer
    assert words.tokenize("kitchen") == loaded.tokenizer.tokenize("kitchen")
    assert "##ing" in words.get_vocab() and "the" not in words.get_vocab()
    trim_vocabulary(loaded, [USED], tmp_path / "common", min_count=3)
    common = load_model(tmp_path / "common").tokenizer.get_vocab()
    assert "the" in common and "jazz" not in common
    assert "jazz" in loaded.tokenizer.get_vocab()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_tiers_hold_the_most_used_rows_and_answer_with_the_same_floats(folders, tmp_path, algorithm):
    """With every row kept, and with the unused ones left out; counted again here, text by text."""
    loaded = load_model(folders[algorithm])
    everything = [index for text in TEXTS for index in loaded.tokenizer(text, add_special_tokens=False)["input_ids"]]
    both = LabeledTexts("both", USED.texts + OTHERS.texts, None)
    pieces = len(loaded.tokenizer.get_vocab())
    for min_count, share in ((0, 0.2), (1, 0.5)):
        out = tmp_path / str(min_count)
        trimmed = trim_vocabulary(loaded, [both], out, min_count=min_count, tiers=(share, 0.3))
        tiered = load_model(out)
        assert torch.equal(outputs(tiered, both), outputs(loaded, both))
        origin = json.loads((out / ROW_MAP).read_text())
        sizes, rows = origin["tiers"], origin["rows"]
        assert sizes == json.loads((out / "config.json").read_text())["table_tiers"]
        assert sizes == [round(share * len(rows)), round(0.3 * len(rows)), len(rows) - sum(sizes[:2])]
        assert len(set(rows)) == len(rows) == trimmed.rows[1] and (min_count or len(rows) == pieces)
        start, tiers = 0, []
        for size in sizes:
            tiers.append(rows[start : start + size])
            assert tiers[-1] == sorted(tiers[-1])
            start += size
        assert set(loaded.tokenizer.all_special_ids) <= set(tiers[0])
        often = [
            [everything.count(row) for row in tier if row not in loaded.tokenizer.all_special_ids] for tier in tiers
        ]
        assert min(often[0]) >= max(often[1]) and min(often[1]) >= max(often[2])
        assert trimmed.tiers == tuple((size, sum(counts)) for size, counts in zip(sizes, often, strict=True))
        assert (trimmed.num_pieces, trimmed.left_out) == (len(everything), pieces - len(rows))
        whole = transformers.AutoModel.from_pretrained(out).get_input_embeddings().weight  # an ordinary folder
        assert torch.equal(whole.float(), loaded.model.get_input_embeddings().weight[rows])


def test_what_cannot_be_in_tiers_is_one_line(folders, cli, tmp_path):
    """Before any work: no text, rows that an output layer reads, tiers already, and shares that are none."""
    loaded = load_model(folders["WordPiece"])
    tied = load_model(save(tmp_path / "tied", "BPE", "vocabulary"))
    trim_vocabulary(loaded, [USED], tmp_path / "tiers", tiers=(0.2,))
    tiered = load_model(tmp_path / "tiers")
    russian = LabeledTexts("russian", (("где кухня",),), None)
    for model, data, words, tiers, refusal, error in (
        (loaded, [], ("song",), (0.2,), "`tiers`: rows are ranked by how often texts use them. Give texts", UsageError),
        (loaded, [russian], (), (0.2,), "russian: uses no piece", InputFileError),
        (loaded, [USED], (), (1.0,), "`tiers` 100%: give shares above 0 %, below 100 %", UsageError),
        (tied, [USED], (), (0.2,), "`tiers`: .* answers in words, and its output layer", UsageError),
        (tiered, [USED], (), (0.2,), "is in tiers already. Give the model that it was made from", InputFileError),
        (tiered, [USED], (), (), "is in tiers already", InputFileError),
    ):
        with pytest.raises(error, match=refusal):
            trim_vocabulary(model, data, tmp_path / "out", words=words, tiers=tiers)
    (tmp_path / "used.tsv").write_text("text\n" + "".join(f"{text}\n" for (text,) in USED.texts))
    trim = ("trim-vocabulary", "--model", folders["WordPiece"], "--data", tmp_path / "used.tsv", "-o", tmp_path / "out")
    for tiers, refusal in (
        ("0%", "--tiers 0%: give shares above 0 %"),
        ("100%", "--tiers 100%: give shares above 0 %"),
        ("60%,40%", "--tiers 60%,40%: give shares above 0 %, below 100 % together"),
        ("0.1%", "--tiers 0.1%: tier 1 would be empty, of"),
        ("few", "--tiers few: not a share"),
        ("20%,", "--tiers '20%,': share 2 of the list is empty"),
    ):
        refused = cli(*trim, "--tiers", tiers)
        assert refused.code == 2 and refusal in refused.complaint
    assert not (tmp_path / "out").exists()
    done = cli(*trim, "--tiers", "20%")
    assert done.code == 0 and "tier 1 " in done.out and "tier 2 " in done.out


def test_what_cannot_be_trimmed_is_one_line(folders, tiny, tmp_path):
    """Text or words without a known word, nothing to leave out, and tokenizers that are not rewritten."""
    loaded = load_model(folders["WordPiece"])
    russian = LabeledTexts("russian", (("где кухня",),), None)
    everything = LabeledTexts("all", ((" ".join(loaded.tokenizer.get_vocab()),),), None)
    slow = shutil.copytree(folders["WordPiece"], tmp_path / "slow")
    (slow / "tokenizer.json").rename(slow / "kept.json")
    odd = shutil.copytree(folders["WordPiece"], tmp_path / "odd")
    document = json.loads((odd / "tokenizer.json").read_text())
    document["model"]["vocab"] = {piece: i for piece, i in document["model"]["vocab"].items() if piece != "##g"}
    (odd / "tokenizer.json").write_text(json.dumps(document))
    for model, data, words, refusal, error in (
        (loaded, [russian], (), "russian: uses no piece", InputFileError),
        (loaded, [], ("кухня", "song"), "`words`: 'кухня' \\(1 of 2 words\\) has characters", InputFileError),
        (loaded, [], ("zb", "a"), "none of the 2 words has a piece", InputFileError),
        (loaded, [], (), "neither is given", UsageError),
        (tiny, [USED], (), "its vocabulary is of type 'WordLevel'", InputFileError),
        (replace(loaded, folder=slow), [USED], (), "has no tokenizer.json", InputFileError),
        (replace(loaded, folder=odd), [USED], (), "the character 'g' of the piece", InputFileError),
        (replace(loaded, folder=None), [USED], (), "has no folder", InputFileError),
    ):
        with pytest.raises(error, match=refusal):
            trim_vocabulary(model, data, tmp_path / "out", words=words)
    whole = load_model(save(tmp_path / "whole", "WordPiece"))
    with pytest.raises(UsageError, match="so none can be left out"):
        trim_vocabulary(whole, [everything], tmp_path / "out", words=tuple(whole.tokenizer.get_vocab()))
    assert not (tmp_path / "out").exists()


def test_the_command_line(folders, cli, tmp_path):
    """Says what is kept, how other text is read and answered; refusals are one line with the code of a bad file."""
    for name, texts in (("used", USED), ("others", OTHERS)):
        (tmp_path / f"{name}.tsv").write_text("text\n" + "".join(f"{text}\n" for (text,) in texts.texts))
    model = folders["WordPiece"]
    trim = ("trim-vocabulary", "--model", model)
    done = cli(*trim, "--data", tmp_path / "used.tsv", "--test-data", tmp_path / "others.tsv", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert "kept" in done.out and "split differently" in done.out and "KL to reference" in done.out
    (tmp_path / "list.txt").write_text("\n")
    assert "holds no word" in cli(*trim, "--words", tmp_path / "list.txt", "-o", tmp_path / "new").complaint
    (tmp_path / "list.txt").write_text("song\nкухня\n")
    refused = cli(*trim, "--words", tmp_path / "list.txt", "-o", tmp_path / "new")
    assert refused.code == 4 and "'кухня' (1 of 2 words)" in refused.complaint
    assert "neither is given" in cli(*trim, "-o", tmp_path / "new").complaint


def _with_another_head(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.bias"] = tensors["classifier.bias"] + 1
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _with_two_pieces_swapped(folder):
    document = json.loads((folder / "tokenizer.json").read_text())
    vocab = document["model"]["vocab"]
    vocab["the"], vocab["play"] = vocab["play"], vocab["the"]
    (folder / "tokenizer.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("damage", "refusal"),
    [(_with_another_head, "answers differently"), (_with_two_pieces_swapped, "does not read a smaller vocabulary")],
)
def test_nothing_is_written_that_reads_or_answers_otherwise(folders, tmp_path, monkeypatch, damage, refusal):
    """The folder is opened and compared before it gets its name: here it is damaged in between."""

    def written(loaded, document, numbers, target, tiers):
        write_trimmed(loaded, document, numbers, target, tiers)
        damage(target)

    monkeypatch.setattr("qbert_opt.workflows.trim_vocabulary.write_trimmed", written)
    with pytest.raises(InputFileError, match=refusal):
        trim_vocabulary(load_model(folders["WordPiece"]), [USED], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_settings_that_name_tokens_by_id_follow(folders, tmp_path):
    """Of older tokenizers: `added_tokens_decoder`; a tokenizer with pieces beside its file is refused by name."""
    folder = shutil.copytree(folders["WordPiece"], tmp_path / "older")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    last = max(load_model(folder).tokenizer.get_vocab().values()) + 1
    named = {"content": "[MASK]", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    write = (folder / "tokenizer_config.json").write_text
    write(json.dumps(settings | {"added_tokens_decoder": {"4": named | {"special": True}}}))
    trim_vocabulary(load_model(folder), [USED], tmp_path / "out")
    after = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert list(after) == [str(load_model(tmp_path / "out").tokenizer.mask_token_id)]
    write(json.dumps(settings | {"added_tokens_decoder": {str(last): named | {"content": "[NEW]", "special": True}}}))
    with pytest.raises(InputFileError, match=r"differ in '\[NEW\]' \(1 such pieces\)"):
        trim_vocabulary(load_model(folder), [USED], tmp_path / "new")
