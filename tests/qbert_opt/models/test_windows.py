"""How much of a text is read: the model's own window, what is cut and counted, and windows over a searched text."""

import json

import numpy as np
import pytest
import torch
from families import FAMILIES, save, tiny_model, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from qbert_opt.costs.workload import workload_of
from qbert_opt.data.texts import LabeledTexts, read_texts
from qbert_opt.errors import InputFileError, UsageError
from qbert_opt.evaluation.evaluate import evaluate, evaluation_batches, measure
from qbert_opt.evaluation.references import comparable
from qbert_opt.models.batches import apart, num_cut, num_lost, single_samples, tokenize
from qbert_opt.models.heads.answer_texts import answer_f1, exact_match
from qbert_opt.models.heads.spans import OVERLAP_TOKENS, answers_of
from qbert_opt.models.loading import LoadedModel, cut_at, load_model
from qbert_opt.models.outputs import Outputs, answers, collect, join
from qbert_opt.models.structure import profile_model
from qbert_opt.models.targets import NONE, read_targets
from qbert_opt.models.windows import longest_sample, model_window, position_limit
from qbert_opt.spec.profiles import ModelProfile


def words_reader(kind, window=40, **more):
    words = tokenizer()
    words.model_max_length = window
    return LoadedModel(f"tiny {kind}", tiny_model("bert", kind), words, "", **more)


def text(*lengths):
    return tuple((" ".join(f"w{i % 59}" for i in range(n)),) for n in lengths)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_window_is_what_the_model_has_positions_for(family):
    """Every family reads its longest text; one token more is beyond a table of absolute positions."""
    model = tiny_model(family)
    limit = position_limit(model.config)
    ids = torch.full((1, limit), 7)
    with torch.no_grad():
        assert torch.isfinite(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits).all()
        if family in ("bert", "roberta", "distilbert", "electra", "albert", "mpnet", "mobilebert"):
            longer = torch.full((1, limit + 1), 7)
            with pytest.raises((IndexError, RuntimeError)):
                model(input_ids=longer, attention_mask=torch.ones_like(longer))


# the tables of positions have 40 rows; ModernBERT has none. Padding is token 0, but MPNet's is always 1
LONGEST = {"bert": 40, "roberta": 39, "mpnet": 38, "modernbert": 40}


@pytest.mark.parametrize("family", LONGEST)
def test_a_profile_knows_the_longest_text(family, tmp_path):
    """`--seq-len` is refused from exactly the first length that the model cannot read, also by a stored profile."""
    profile = profile_model(load_model(save(tmp_path / "model", family)))
    stored = ModelProfile.model_validate_json(profile.model_dump_json())
    most = LONGEST[family]
    assert stored.max_tokens == most
    assert workload_of(stored, most).seq_len == workload_of(stored, None).seq_len == most
    with pytest.raises(UsageError, match=rf"`seq_len` {most + 1}: .* has positions for {most} tokens at most"):
        workload_of(stored, most + 1)


def test_a_profile_of_an_earlier_release_counts_rows(tmp_path):
    """Files without the limit keep what they said: the rows of the table, or no limit without a table."""
    for family, rows in (("roberta", 40), ("modernbert", None)):
        profile = profile_model(load_model(save(tmp_path / family, family)))
        document = profile.model_dump(mode="json")
        del document["position_limit"]
        assert ModelProfile.model_validate(document).max_tokens == rows


def test_roberta_with_another_padding_index():
    """Positions are counted from behind the padding index, wherever that is."""
    model = tiny_model("roberta")
    model.config.pad_token_id = 5
    assert position_limit(model.config) == 40 - 6


def test_the_tokenizers_limit_counts_where_it_is_sane():
    """The smaller of both; transformers' number for "no limit" is none."""
    words, config = tokenizer(), tiny_model("bert").config
    assert model_window(words, config) == 40
    words.model_max_length = 32
    assert model_window(words, config) == 32
    words.model_max_length = 512
    assert model_window(words, config) == 40
    config.max_position_embeddings = -1
    words.model_max_length = int(1e30)
    assert model_window(words, config) == 1 << 14
    words.model_max_length = 100
    assert (longest_sample(words, None), longest_sample(words, 384), longest_sample(words, None, 20)) == (100, 100, 20)


def test_long_texts_are_read_whole(tmp_path):
    """A model with 300 positions reads a text of 250 words, where texts once were cut at 128 tokens."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=64, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
                        max_position_embeddings=300, num_labels=2)  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    found = evaluate(loaded, LabeledTexts("t", text(250, 5), None))
    assert (found.max_tokens, found.num_cut, found.num_lost) == (300, 0, 0)
    found = evaluate(load_model(tmp_path, max_tokens=128), LabeledTexts("t", text(250, 5, 126, 127), None))
    assert (found.max_tokens, found.num_cut, found.num_lost) == (128, 2, 124 + 1)
    with pytest.raises(UsageError, match=r"`max_tokens` 301: .* reads 4 to 300 tokens"):
        load_model(tmp_path, max_tokens=301)
    with pytest.raises(UsageError, match=r"`max_tokens` 128.5: .* reads 4 to 300 tokens"):
        load_model(tmp_path, max_tokens=128.5)
    with pytest.raises(UsageError, match=r"`max_tokens` 3:"):
        cut_at(loaded, 3)
    assert cut_at(loaded, None) is loaded


def test_what_is_cut_is_counted():
    """Tokens of texts and pairs, words of tags, nothing of windows; the counts go where the samples go."""
    words = words_reader("classes", 20).tokenizer
    batches = tokenize(words, [*text(30, 3, 18, 19), ("w1 " * 10, "w2 " * 15)], batch_size=2)
    lost = {i: n for batch in batches for i, n in zip(batch.indices, batch.lost, strict=True)}
    assert lost == {0: 12, 1: 0, 2: 0, 3: 1, 4: 28 - 20}
    again = apart(single_samples(batches), frozenset({0, 3}).__contains__)
    assert (num_cut(again), num_lost(again)) == (num_cut(batches), num_lost(batches)) == (3, 21)
    [batch] = tokenize(words, [("w1 w2-w3 " * 20,)], batch_size=1, kind="tags")
    assert batch.lost == (40 - 10,) and int(batch.labelled.sum()) == 10  # the last word by its first of three tokens
    [batch] = tokenize(words, text(40), batch_size=1, kind="vocabulary")
    assert batch.lost == (22,)
    assert num_cut(tokenize(words, [("w1", "w2 " * 90)], batch_size=4, kind="spans")) == 0


def test_words_beyond_the_window_are_said():
    """They count as outside of entities, and the report has their number."""
    from qbert_opt.reports.evaluation import cut_lines

    loaded = words_reader("tags", 12)
    data = LabeledTexts("t", text(30, 4), (" ".join(["O"] * 29 + ["B-x"]), "O O O O"))
    found = evaluate(loaded, data)
    assert (found.num_cut, found.num_lost) == (1, 20)
    assert cut_lines([found, found]) == ["1 of 2 texts were cut to 12 tokens (20 words not read)"]
    assert cut_lines([evaluate(loaded, data.take([1]))]) == []


def test_long_samples_share_no_large_batch():
    """A batch has at most as many tokens as its size has at 384 each."""
    words = tokenizer()
    words.model_max_length = 4000
    batches = tokenize(words, text(*[3000] * 5, *[10] * 40), batch_size=16)
    assert max(batch.mask.numel() for batch in batches) <= 16 * 384
    assert [len(batch.indices) for batch in batches] == [16, 16, 8, 2, 2, 1]
    assert sorted(i for batch in batches for i in batch.indices) == list(range(45))


def test_both_models_read_the_same_part():
    """The shorter window of two counts for both."""
    one, other = words_reader("classes", 40), words_reader("classes", 24)
    assert [loaded.longest for loaded in comparable(one, other)] == [24, 24]
    with pytest.raises(InputFileError, match=r"answers with tags, its reference tiny classes with classes"):
        comparable(words_reader("tags"), one)


@given(st.integers(1, 400), st.integers(1, 30), st.integers(36, 200))
@settings(max_examples=60)
def test_windows_cover_a_text(length, question, longest):
    """Every token of the text is in a window; neighbours overlap; none is longer than asked, all but the last full."""
    words = tokenizer()
    words.model_max_length = longest
    pair = (" ".join(["w9"] * question), " ".join(f"w{i % 59}" for i in range(length)))
    batches = tokenize(words, [pair], batch_size=4, kind="spans")
    windows = sorted(single_samples(batches), key=lambda one: one.indices)
    assert [one.indices for one in windows] == [(i,) for i in range(len(windows))]
    room = longest - question - 3
    step = room - min(OVERLAP_TOKENS, room // 2)
    assert len(windows) == 1 + max(0, -(-(length - room) // step))
    covered = 0
    for number, one in enumerate(windows):
        assert one.labelled[0, 0] and one.mask.sum() <= longest  # [CLS] may be answered with
        inside = one.inputs["input_ids"][0][one.labelled[0]][1:] - 5
        start = number * step
        assert inside.tolist() == [i % 59 for i in range(start, min(length, start + room))]
        covered = max(covered, start + len(inside))
    assert covered == length
    assert all(one.texts is None or one.texts == (0,) for one in windows)


def perfect(loaded, data, wanted):
    """Outputs with high logits at the right places of `wanted`, a list of `(sample, row, column)`."""
    batches = evaluation_batches(loaded, data)
    found = collect(loaded.head, loaded.model, batches)
    values = torch.where(found.values > -1e29, 0.0, found.values)
    for row, column in wanted:
        values[row, column] = 9.0
    return Outputs("spans", values, found.samples, found.num_samples, found.texts)


def test_an_answer_in_a_later_window():
    """It is found where it stands, over all windows, whatever stands in the first."""
    loaded = words_reader("spans", 38)
    data = LabeledTexts("s", (("w9", " ".join(["w1"] * 60) + " w5"), ("w9", "w1 w2")), ('["w5"]', '["w2"]'))
    targets = read_targets(loaded, data, evaluation_batches(loaded, data))
    assert [(span.question, span.none) for span in targets.spans] == [(0, 0), (0, 0), (0, 0), (1, 0)]
    right = [(row, int(column)) for row, column in enumerate(targets.rows) if column > 0]
    found = perfect(loaded, data, right)
    assert answers_of(found, targets) == ["w5", "w2"]
    result = measure(found, targets, found.values)
    assert (result.num_samples, result.exact_match.value, result.answer_f1.value) == (2, 1.0, 1.0)
    assert result.kl.value == 0 and result.accuracy is None


def test_answers_across_windows_against_a_search_over_all():
    """The best span of all windows, against a loop over every pair of every window."""
    loaded = words_reader("spans", 30)
    context = " ".join(f"w{i % 59}" for i in range(70))
    data = LabeledTexts("s", (("w9", context), ("w1 w2", context[:60])), ('["w5"]', '["w2"]'))
    targets = read_targets(loaded, data, evaluation_batches(loaded, data))
    found = perfect(loaded, data, [])
    generator = torch.Generator().manual_seed(0)
    values = torch.where(found.values > -1e29, torch.randn(found.values.shape, generator=generator), found.values)
    for answer, question in zip(answers_of(Outputs("spans", values, found.samples, 0), targets), (0, 1), strict=True):
        best, wanted = -np.inf, ""
        for number, span in enumerate(targets.spans):
            if span.question != question:
                continue
            inside = [t for t in range(len(span.offsets)) if span.offsets[t, 1] > 0]
            for i in inside:
                for j in inside:
                    score = values[2 * number, i].item() + values[2 * number + 1, j].item()
                    if 0 <= j - i < 30 and score > best:
                        best, wanted = score, span.text[span.offsets[i, 0] : span.offsets[j, 1]]
        assert answer == wanted


def test_questions_without_an_answer():
    """[CLS] above the best span in every window says none; where all questions have answers, it never does."""
    loaded = words_reader("spans", 38)
    long = " ".join(["w1"] * 60)
    data = LabeledTexts("s", (("w9", "w1 w2"), ("w9", long)), ('["w2"]', "[]"))
    targets = read_targets(loaded, data, evaluation_batches(loaded, data))
    assert targets.rows.tolist() == [4, 4, 0, 0, 0, 0, 0, 0] and not targets.answerable
    found = perfect(loaded, data, [(0, 4), (1, 4), *((row, 0) for row in range(2, 8))])
    assert answers_of(found, targets) == ["w2", ""]
    assert measure(found, targets).exact_match.value == 1
    one_less = perfect(loaded, data, [(0, 4), (1, 4), *((row, 0) for row in range(2, 6))])  # the last window has doubts
    assert answers_of(one_less, targets) == ["w2", "w1"]
    answered = LabeledTexts("s", data.texts, ('["w2"]', '["w1"]'))
    always = read_targets(loaded, answered, evaluation_batches(loaded, answered))
    assert always.answerable and answers_of(found, always)[1] != ""
    part = data.take([0])
    assert not read_targets(loaded, part, evaluation_batches(loaded, part)).answerable


def test_no_answer_as_the_official_script_counts_it():
    """None is right where there is none, and nowhere else; answers of nothing but an article are none."""
    assert exact_match("", ()) and answer_f1("", ()) == 1
    assert not exact_match("x", ()) and answer_f1("x", ()) == 0
    assert not exact_match("", ("x",)) and answer_f1("", ("x",)) == 0
    assert exact_match("", ("the",)) and answer_f1("the", ()) == 1


def test_where_no_window_holds_the_answer():
    """An answer that the text does not have, or that is longer than a window, has no right token at all."""
    loaded = words_reader("spans", 20)
    long = " ".join(f"w{i % 59}" for i in range(40))
    data = LabeledTexts("s", (("w9", long), ("w9", long)), ('["w58"]', json.dumps([long[:100]])))
    assert set(read_targets(loaded, data, evaluation_batches(loaded, data)).rows.tolist()) == {NONE}


def test_what_cannot_be_searched_is_said():
    """A question that fills the window, a text without a token."""
    words = words_reader("spans", 12).tokenizer
    with pytest.raises(InputFileError, match="sample 1: the question alone fills the model's 12 tokens"):
        tokenize(words, [("w1 " * 9, "w2")], batch_size=1, kind="spans")
    with pytest.raises(InputFileError, match="sample 2: the context has no token"):
        tokenize(words, [("w1", "w2"), ("w1", " ")], batch_size=1, kind="spans")


def test_windows_are_samples_that_answer_alone_as_together():
    """Rows of windows are the same in any batch, and keep which text they are of."""
    loaded = words_reader("spans", 38)
    texts = [("w9", " ".join(f"w{(7 * i + k) % 59}" for i in range(20 + 30 * k))) for k in range(4)]
    batches = tokenize(loaded.tokenizer, texts, batch_size=3, kind="spans")
    together = collect(loaded.head, loaded.model, batches)
    with torch.no_grad():
        alone = join([answers(loaded.head, loaded.model, one) for one in single_samples(batches)])
    torch.testing.assert_close(together.values, alone.values, atol=1e-4, rtol=1e-4)
    assert together.by_text.tolist() == alone.by_text.tolist()
    assert together.num_texts == 4 < together.num_samples == len(together.samples) // 2
    assert together.samples.tolist() == sorted(together.samples.tolist())


def test_squad_2_files(tmp_path):
    """Impossible questions have no answers; others must have the field."""
    question = {
        "id": "1",
        "question": "w9",
        "is_impossible": True,
        "plausible_answers": [{"text": "w1"}],
        "answers": [],
    }
    path = tmp_path / "dev.json"
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": "w1 w2", "qas": [question]}]}]}))
    assert read_texts(path).labels == ("[]",)
    del question["answers"]
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": "w1 w2", "qas": [question]}]}]}))
    assert read_texts(path).labels == ("[]",)


@pytest.mark.parametrize("kind", ["tags", "spans"])
def test_texts_are_cut_alike_from_scores_to_the_written_model(kind, cli, tmp_path):
    """`--max-tokens` of the scores holds for plan and folder; every report says how many texts were cut."""
    model = save(tmp_path / "model", "bert", kind)
    rows = []
    for i in range(60):
        words = [f"w{(i * 7 + j) % 59}" for j in range(10 + i % 12)]
        if kind == "tags":
            rows.append({"text": " ".join(words), "tags": " ".join(["O"] * len(words))})
        else:
            rows.append({"question": f"w{i % 50}", "context": " ".join(words), "answers": "[]" if i % 3 else '["w7"]'})
    data, scores, plan = (tmp_path / name for name in ("data.jsonl", "scores.json", "plan.json"))
    data.write_text("\n".join(map(json.dumps, rows)))
    few = ("--calibration-samples", 20, "--scoring-samples", 20, "--table-bits", "none", "-q")
    given = ("--model", model, "--data", data)
    found = cli("sensitivity", *given, *few, "--max-tokens", 16, "-o", scores)
    assert found.code == 0, found.err
    provenance = json.loads(scores.read_text())["provenance"]
    assert provenance["max_tokens"] == 16
    if kind == "tags":
        assert provenance["num_cut"] > 0 and f"{provenance['num_cut']} of 40 texts were cut to 16 tokens" in found.out
    else:
        assert provenance["num_cut"] == 0 and json.loads(scores.read_text())["samples"][0] > 20  # windows
    assert cli("solve", "--scores", scores, "--budget", "4bit", "-o", plan).code == 0
    found = cli("quantize", plan, *given, "-q", "-o", tmp_path / "out")
    assert found.code == 0, found.err
    found = cli("evaluate", tmp_path / "out", "--data", data, "--reference", model, "--max-tokens", 14)
    assert found.code == 0, found.err
    assert ("texts were cut to 14 tokens" in found.out) == (kind == "tags")
    document = json.loads(cli("evaluate", model, "--data", data, "--json").out)
    assert (document["max_tokens"], document["num_cut"]) == (40, 0)
    found = cli("sensitivity", *given, "--max-tokens", 41, "-o", scores)
    assert found.code == 2 and "41" in found.complaint and "4 to 40 tokens" in found.complaint
    found = cli("solve", "--scores", scores, "--budget", "4bit", "--max-tokens", 8)
    assert found.code == 2 and "--max-tokens" in found.complaint


def test_scores_of_earlier_releases_are_read(gptq_plan, tiny, tmp_path):
    """Without the new fields they load, and texts are cut where they were then."""
    from qbert_opt.spec.allocation import read_allocation
    from qbert_opt.workflows.quantize import as_scored

    document = json.loads(gptq_plan.model_dump_json(by_alias=True))
    for name in ("max_tokens", "num_cut", "num_lost"):
        del document["provenance"][name]
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(document))
    plan = read_allocation(path)
    assert plan.provenance.max_tokens is None and plan.provenance.num_cut is None
    assert as_scored(tiny, plan).max_tokens == 128
    assert as_scored(tiny, gptq_plan).max_tokens == tiny.longest == 40
