"""Right answers and how the field counts them: tags, spans, masked tokens, and the files they come from."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from families import LABELS, save, tiny_model, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from qbert_opt.data.texts import LabeledTexts, read_texts
from qbert_opt.errors import InputFileError, UsageError
from qbert_opt.evaluation.evaluate import (
    evaluate,
    evaluation_batches,
    mean_over_rows,
    measure,
    outputs,
)
from qbert_opt.evaluation.intervals import interval, ratio_interval
from qbert_opt.models.heads import KINDS
from qbert_opt.models.heads.answer_texts import answer_f1, exact_match, normalized
from qbert_opt.models.heads.spans import answers_of
from qbert_opt.models.heads.tags import entity_counts
from qbert_opt.models.loading import LoadedModel
from qbert_opt.models.outputs import IMPOSSIBLE, Outputs, collect
from qbert_opt.models.targets import SpanWindow, Targets, read_targets

TAGS = LABELS["tags"]


def loaded_model(kind):
    words = tokenizer()
    words.model_max_length = 38
    return LoadedModel(f"tiny {kind}", tiny_model("bert", kind), words, "")


@given(st.integers(0, 2**31 - 1))
@settings(max_examples=40)
def test_entities_are_counted_as_seqeval_counts_them(seed):
    """F1 from our counts is seqeval's, on random tags of random lengths."""
    from seqeval.metrics import f1_score

    draw = random.Random(seed)
    right = [[draw.choice(TAGS) for _ in range(draw.randint(1, 9))] for _ in range(6)]
    found = [[tag if draw.random() < 0.6 else draw.choice(TAGS) for tag in tags] for tags in right]
    counts = entity_counts(found, right)
    ours = ratio_interval(2 * counts[:, 0], counts[:, 1] + counts[:, 2])
    assert ours.value == pytest.approx(f1_score(right, found, zero_division=0))
    assert ours.low <= ours.value <= ours.high


def test_squads_comparison():
    """Case, punctuation, articles and blanks do not count; F1 is of words, the best of the accepted answers."""
    assert normalized("The  Denver Broncos!") == "denver broncos"
    assert exact_match("the Broncos.", ("Carolina", "Broncos")) and not exact_match("Bronco", ("Broncos",))
    assert answer_f1("in the year 1973", ("1973", "October 1973")) == pytest.approx(0.5)
    assert answer_f1("a b c d", ("b c", "x")) == pytest.approx(2 * 2 / (3 + 2))  # "a" is an article
    assert answer_f1("", ("x",)) == 0 == answer_f1("x", ())


def test_the_answer_is_the_best_allowed_span():
    """Start before end, at most 30 tokens, against a search over all pairs."""
    text = " ".join(f"t{i}" for i in range(60))
    ends = np.cumsum([len(word) + 1 for word in text.split()]) - 1
    offsets = np.array([(int(e) - len(w), int(e)) for e, w in zip(ends, text.split(), strict=True)], dtype=np.int32)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(40, 60, generator=generator)
    values[0::2, 0] = IMPOSSIBLE
    values[1::2, 0] = IMPOSSIBLE
    windows = tuple(SpanWindow(question, text, offsets, ()) for question in range(20))
    samples = torch.arange(20).repeat_interleave(2)
    targets = Targets("spans", torch.zeros(40, dtype=torch.int64), samples, spans=windows)
    found = answers_of(Outputs("spans", values, samples, 20), targets)
    for sample in range(20):
        start, end = values[2 * sample], values[2 * sample + 1]
        pairs = [(i, j) for i in range(60) for j in range(i, min(60, i + 30))]
        i, j = max(pairs, key=lambda pair: start[pair[0]].item() + end[pair[1]].item())
        assert found[sample] == " ".join(text.split()[i : j + 1])


def test_intervals_over_words_draw_samples():
    """Rows of a sample move together: the interval of a mean over rows is as wide as that of whole samples."""
    generator = np.random.default_rng(0)
    per_sample = generator.standard_normal(400)
    samples = torch.arange(400)

    def mean(times):
        rows = torch.from_numpy(per_sample).repeat_interleave(times)
        return mean_over_rows(Outputs("tags", rows[:, None], samples.repeat_interleave(times), 400), rows)

    repeated, alone = mean(5), interval(per_sample)
    assert repeated.value == pytest.approx(alone.value)
    assert (repeated.high - repeated.low) == pytest.approx(alone.high - alone.low, rel=0.1)
    assert mean(1) == alone


def test_tags_by_hand():
    """Words that were cut away are outside of entities."""
    loaded = loaded_model("tags")
    long = " ".join(["w1"] * 60)
    data = LabeledTexts("t", (("w1 w2",), (long,)), ("B-x I-x", " ".join(["O"] * 58 + ["B-y", "I-y"])))
    targets = read_targets(loaded, data, evaluation_batches(loaded, data))
    assert targets.rows[:2].tolist() == [1, 2]
    assert len(targets.words[1]) == 36 and targets.tags[1][-2:] == ("B-y", "I-y")
    values = torch.zeros(len(targets.rows), len(TAGS))
    values[:, 0] = 1.0
    values[0, 1] = values[1, 2] = 2.0
    found = Outputs("tags", values, targets.samples, 2)
    result = measure(found, targets, values)
    assert result.entity_f1.value == pytest.approx(2 * 1 / (1 + 2))
    assert result.accuracy.value == 1 and (result.flipped, result.lost, result.won) == (0, 0, 0)
    assert result.kl.value == 0 == result.drop.value and result.drop.high > 0  # two texts are no proof
    nothing = values.clone()
    nothing[:2, 0] = 3.0  # no entity is found any more
    assert measure(replace(found, values=nothing), targets, values).drop.value == pytest.approx(2 / 3)
    torch.testing.assert_close(targets.of(Outputs("tags", values[2:], targets.samples[2:], 1)), targets.rows[2:])


def test_spans_by_hand():
    """The answer's first occurrence, whole tokens, in the window that holds it; exact outputs score 1."""
    loaded = loaded_model("spans")
    data = LabeledTexts("s", (("w9", "w1 w2 w3 w2"), ("w9", " ".join(["w1"] * 60) + " w5")), ('["w2 w3"]', '["w5"]'))
    batches = evaluation_batches(loaded, data)
    targets = read_targets(loaded, data, batches)
    # [CLS] w9 [SEP] w1 w2: windows of 38 tokens hold 34 of the second text's 61, each half of them again
    assert targets.rows.tolist() == [4, 5, 0, 0, 0, 0, 29, 29]
    assert sorted(zip(*[sum((getattr(b, n) for b in batches), ()) for n in ("indices", "texts")], strict=True)) == [
        (0, 0), (1, 1), (2, 1), (3, 1),
    ]  # fmt: skip
    values = torch.full((8, 38), IMPOSSIBLE)
    values[:, 3:37] = 0.0
    values[0, 4] = values[1, 5] = values[6, 29] = values[7, 29] = 9.0
    found = measure(
        Outputs("spans", values, targets.samples, 4, torch.tensor([0, 0, 1, 1, 1, 1, 1, 1])), targets, values
    )
    assert (found.num_samples, found.exact_match.value, found.answer_f1.value, found.flipped) == (2, 1, 1, 0)


def test_masked_tokens_are_the_targets():
    """What stood behind the masks; texts with masks of their own have no right answers."""
    loaded = loaded_model("vocabulary")
    data = LabeledTexts("v", tuple((" ".join(f"w{i + j}" for j in range(8)),) for i in range(20)), None)
    batches = evaluation_batches(loaded, data)
    targets = read_targets(loaded, data, batches)
    assert len(targets.rows) == 20 and (targets.rows >= 5).all()
    [batch] = batches
    for row, index in enumerate(batch.indices):
        words = data.texts[index][0].split()
        [position] = batch.labelled[row].nonzero().flatten().tolist()
        assert targets.rows[index].item() == 5 + int(words[position - 1][1:])
    perfect = torch.nn.functional.one_hot(targets.rows, 64).float()
    assert measure(Outputs("vocabulary", perfect, targets.samples, 20), targets).accuracy.value == 1
    masked = LabeledTexts("m", (("w1 [MASK]",),), None)
    assert read_targets(loaded, masked, evaluation_batches(loaded, masked)) is None


def test_numbers_are_correlated_and_embeddings_have_distances():
    """Pearson's correlation; distance relative to the reference's squared length."""
    targets = Targets("regression", torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64), torch.arange(3))
    found = Outputs("regression", torch.tensor([[2.0], [4.0], [8.0]]), torch.arange(3), 3)
    result = measure(found, targets, found.values + 1)
    assert result.correlation == pytest.approx(1) and result.distance.value == 1 and result.kl is None
    rows = Outputs("embeddings", torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.arange(2), 2)
    result = measure(rows, None, 2 * rows.values)
    assert result.distance.value == pytest.approx(0.25) == result.loss.value
    assert "relative" in result.loss_unit


WRONG = {
    "too few tags": ("tags", "w1 w2", "O", r"sample 1 has 2 words and 1 tags \('O'\)"),
    "unknown tag": ("tags", "w1", "B-z", r"d: sample 1 has tag 'B-z'. tiny tags knows O, B-x"),
    "no answers": ("spans", "w1", "w1", r"sample 1 has label 'w1'; spans need a JSON list of answers"),
    "answers that are numbers": ("spans", "w1", "[1]", r"label '\[1\]'; spans need"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_labels_that_do_not_fit(wrong):
    """One line that says which sample and what is legal."""
    kind, text, label, message = WRONG[wrong]
    pair = ("w9", text) if kind == "spans" else (text,)
    data = LabeledTexts("d", (pair,), (label,))
    with pytest.raises(InputFileError, match=message) as caught:
        evaluate(loaded_model(kind), data)
    assert "\n" not in str(caught.value)


def squad(articles=5, paragraphs=2):
    return {
        "version": "1.1",
        "data": [
            {
                "title": f"a{a}",
                "paragraphs": [
                    {
                        "context": f"w{a} w{p} w7",
                        "qas": [
                            {"id": "q", "question": f"w8 w{a} w{p}", "answers": [{"text": "w7", "answer_start": 6}]}
                        ],
                    }
                    for p in range(paragraphs)
                ],
            }
            for a in range(articles)
        ],
    }


def test_squad_files_are_split_by_article(tmp_path):
    """Three fifths, one, one; no article in two of them; all of it without a split."""
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(squad(10)))
    parts = [read_texts(path, split=split) for split in ("train", "dev", "test")]
    assert [len(part) for part in parts] == [12, 4, 4]
    assert sum((part.texts for part in parts), ()) == read_texts(path).texts
    assert parts[0].texts[0] == ("w8 w0 w0", "w0 w0 w7") and parts[0].labels[0] == '["w7"]'
    with pytest.raises(UsageError, match=r"`split` x: .* has train, dev, test, by article"):
        read_texts(path, split="x")
    spoiled = squad()
    del spoiled["data"][3]["paragraphs"][0]["qas"][0]["answers"]
    path.write_text(json.dumps(spoiled))
    with pytest.raises(InputFileError, match=r"is no SQuAD file: question \d+: KeyError: 'answers'"):
        read_texts(path)


def test_slot_files(tmp_path):
    """Intents by default, tags by name; lines that do not agree are refused with their number."""
    for split in ("dev", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "seq.in").write_text(f"w1 {split}\nw3\n")
        (tmp_path / split / "seq.out").write_text("B-x O \nI-x\n")
        (tmp_path / split / "label").write_text("red\nblue\n")
    found = read_texts(tmp_path, split="dev")
    assert (found.texts, found.labels) == ((("w1 dev",), ("w3",)), ("red", "blue"))
    assert read_texts(tmp_path / "test", label_column="tags").labels == ("B-x O", "I-x")
    with pytest.raises(UsageError, match=r"`split`: .* holds dev, test. Say which"):
        read_texts(tmp_path)
    (tmp_path / "dev" / "seq.out").write_text("B-x\nI-x\n")
    with pytest.raises(InputFileError, match=r"line 1: has 1 tags for 2 words"):
        read_texts(tmp_path, split="dev", label_column="seq.out")
    (tmp_path / "dev" / "label").write_text("red\n")
    with pytest.raises(InputFileError, match=r"label: 1 lines, but seq.in has 2"):
        read_texts(tmp_path, split="dev")


def test_triples(tmp_path):
    """Words of head and relation against the tail's; unknown names are refused with their line."""
    (tmp_path / "entity2text.txt").write_text("_a\tred apple\n_b\tfruit\n")
    (tmp_path / "relation2text.txt").write_text("_t\ttype of\n")
    (tmp_path / "dev.tsv").write_text("_a\t_t\t_b\t1\n_b\t_t\t_a\t-1\n")
    (tmp_path / "train.tsv").write_text("_a\t_t\t_b\n")
    found = read_texts(tmp_path, split="dev")
    assert found.texts == (("red apple type of", "fruit"), ("fruit type of", "red apple"))
    assert found.labels == ("1", "-1") and read_texts(tmp_path / "train.tsv").labels is None
    (tmp_path / "dev.tsv").write_text("_a\t_t\t_c\t1\n")
    with pytest.raises(InputFileError, match=r"dev.tsv: line 1: '_c' has no words in entity2text.txt"):
        read_texts(tmp_path, split="dev")


def test_lists_in_hub_files(tmp_path):
    """Words and tags as lists, answers with places: the columns that hub data sets have."""
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"tokens": ["w1", "w2"], "ner_tags": [0, 1]}) + "\n")
    found = read_texts(path)
    assert (found.texts, found.labels) == ((("w1 w2",),), ("0 1",))
    path.write_text(
        json.dumps({"question": "q", "context": "c", "answers": {"text": ["c"], "answer_start": [0]}}) + "\n"
    )
    found = read_texts(path)
    assert (found.texts, found.labels) == ((("q", "c"),), ('["c"]',))


def test_bundled_tags():
    """The bundled utterances have one tag for each word."""
    found = read_texts("snips/dev", label_column="tags")
    assert len(found) == 700 and read_texts("snips/dev").texts == found.texts
    assert all(len(t[0].split()) == len(tags.split()) for t, tags in zip(found.texts, found.labels, strict=True))


@pytest.mark.parametrize("kind", ["tags", "spans"])
def test_fine_tune_and_the_whole_path(kind, cli, tmp_path):
    """A tagger and a reader learn something simple; sensitivity, solve, quantize, evaluate take them from there."""
    generator = random.Random(0)
    encoder = save(tmp_path / "encoder", "bert", "embeddings")
    rows = []
    for _ in range(160):
        words = [f"w{generator.randint(10, 15)}" for _ in range(6)]
        if kind == "tags":
            rows.append({"text": " ".join(words), "tags": " ".join("B-x" if int(w[1:]) < 12 else "O" for w in words)})
        else:
            rows.append({"question": "w7", "context": " ".join([*words, "w7"]), "answers": json.dumps(["w7"])})
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    model, plan, out = (tmp_path / name for name in ("model", "plan.json", "out"))
    learn = ("--kind", kind, "--epochs", 4, "--batch-size", 8, "--learning-rate", 1e-2, "-q")
    found = cli("fine-tune", "--encoder", encoder, "--data", data, *learn, "-o", model)
    assert found.code == 0, found.err
    measured = json.loads(cli("evaluate", model, "--data", data, "--json").out)
    figure = "entity_f1" if kind == "tags" else "exact_match"
    assert measured["kind"] == kind and measured[figure]["value"] > 0.6, measured
    samples = ("--calibration-samples", 60, "--scoring-samples", 60, "-q")
    found = cli("sensitivity", "--model", model, "--data", data, *samples, "-o", tmp_path / "scores.json")
    assert found.code == 0, found.err
    assert cli("solve", "--scores", tmp_path / "scores.json", "--budget", "5bit", "-o", plan).code == 0
    assert cli("quantize", plan, "--model", model, "--data", data, "-q", "-o", out).code == 0
    found = cli("evaluate", out, "--data", data, "--reference", model)
    assert found.code == 0, found.err
    for title in {"tags": ("entity F1", "words"), "spans": ("EM", "F1")}[kind]:
        assert title in found.out
    document = json.loads(cli("evaluate", out, "--data", data, "--reference", model, "--json").out)
    assert document["kl"]["value"] > 0
    assert document[figure]["value"] > 0.8 * measured[figure]["value"]


def test_embeddings_have_no_right_and_wrong(sentences):
    """An encoder alone is measured by its distance; labels mean nothing to it."""
    loaded = loaded_model("embeddings")
    truth = outputs(loaded, sentences)
    assert truth.shape == (120, 32)
    found = evaluate(loaded, sentences, truth)
    assert found.distance.value == 0 and found.accuracy is None and found.kl is None
    batches = evaluation_batches(loaded, sentences)
    states = loaded.model(**batches[0].inputs).last_hidden_state
    row = states[0][batches[0].mask[0]].mean(0)
    torch.testing.assert_close(row, collect(loaded.head, loaded.model, batches).values[batches[0].indices[0]])


def test_texts_without_anything_to_answer_are_refused(cli, tmp_path):
    """No masked token in any text: one line, as at scoring, and not a mean over nothing."""
    folder = save(tmp_path / "model", "bert", "vocabulary")
    data = tmp_path / "unknown.tsv"
    data.write_text("text\nhello there\nanother text\n")
    found = cli("evaluate", folder, "--data", data)
    assert found.code == 4 and "unknown.tsv: none of these texts has a position for which" in found.complaint


def test_ids_that_name_other_classes_to_the_reference_are_refused(cli, tmp_path):
    """Same weights, outputs named in another order: id 0 would be right for two different classes."""
    models = [save(tmp_path / name, "bert", "classes") for name in ("ours", "theirs")]
    config = json.loads((models[1] / "config.json").read_text())
    names = ("green", "red", "blue")
    config |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    (models[1] / "config.json").write_text(json.dumps(config))
    data = tmp_path / "ids.tsv"
    data.write_text("text\tlabel\nw1 w2\t0\nw3\t1\nw4\t2\n")
    found = cli("evaluate", models[0], "--data", data, "--reference", models[1])
    assert found.code == 4
    assert "label '0' is 'red' to" in found.complaint and "'green' to its reference" in found.complaint
    data.write_text("text\tlabel\nw1 w2\tred\nw3\tgreen\nw4\tblue\n")
    assert cli("evaluate", models[0], "--data", data, "--reference", models[1]).code == 0


def test_a_regression_with_several_answers_has_no_correlation():
    """One label column, two answers: it would be that of the first."""
    kind = KINDS["regression"]
    answers = torch.tensor([[1.0, 2.0], [2.0, 1.0], [3.0, 5.0]])
    targets = Targets("regression", torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), torch.arange(3))
    assert kind.quality(Outputs("regression", answers, torch.arange(3), 3), targets).correlation is None
    one = Outputs("regression", answers[:, :1], torch.arange(3), 3)
    assert kind.quality(one, targets).correlation == pytest.approx(1.0)
