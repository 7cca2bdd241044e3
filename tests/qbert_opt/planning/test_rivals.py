"""The contest with other allocators: requests, answers, equal bytes, ratios. No rival's package is needed."""

import argparse
import json

import numpy as np
import pytest
import torch

from benchmarks.predictions.plans import only
from benchmarks.rivals import contest, environment
from benchmarks.rivals.answers import Refusal, WrongAnswer, ask, code_bits, labels, read_answer, right_answers
from benchmarks.rivals.asked import Asked, answer, has_loss, inputs, read, refuse
from benchmarks.rivals.nncf import cut
from benchmarks.rivals.pair import Measured
from qbert_opt.models.samples import NONE, Targets, TokenBatch

ASKED = Asked("model", "classes", ("a", "b"), (2, 3, 4, 8), (2.5,), ())
ONE = {"way": "gradient", "code_bits": 2.5, "said": None, "satisfied": True, "bits": {"a": 2, "b": 3}}


def answered(folder, plan):
    """An answer file with one plan."""
    path = folder / "answer.json"
    path.write_text(json.dumps({"package": "other", "version": "1.2", "scoring_s": 7.5, "plans": [plan]}))
    return path


def test_an_answer_gives_choices_with_a_range_per_row(tmp_path):
    """Bits, the rival's claim and its time are kept as they were said."""
    [plan] = read_answer("other", answered(tmp_path, ONE), ASKED)
    assert (plan.package, plan.scoring_s, plan.satisfied) == ("other 1.2", 7.5, True)
    assert {m: c.name for m, c in plan.choices("gptq").items()} == {
        "a": "2bit/rows:each/gptq",
        "b": "3bit/rows:each/gptq",
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bits": {"a": 2, "b": 16}}, "b has 16 bits; legal: 2, 3, 4, 8"),
        ({"bits": {"a": 2, "b": "3"}}, "b has '3' bits; legal"),
        ({"bits": {"a": 2}}, "2.5 bits: b has no bits"),
        ({"bits": {"a": 2, "b": 3, "pooler": 4}}, "pooler is not a matrix of the model"),
        ({"bits": None}, "is no answer: TypeError"),
    ],
)
def test_an_answer_that_does_not_fit_the_model_is_refused(tmp_path, change, said):
    """The line names the matrix and what is legal."""
    with pytest.raises(WrongAnswer, match=said):
        read_answer("other", answered(tmp_path, ONE | change), ASKED)


def test_a_broken_answer_and_a_refusal_are_told_apart(tmp_path):
    """A file that is no answer is an error; a rival that says why it has no plan is a result."""
    path = tmp_path / "answer.json"
    path.write_text('{"package": ')
    with pytest.raises(WrongAnswer, match=r"answer\.json is no answer"):
        read_answer("other", path, ASKED)
    refuse(path, "numpy", "TraceError: control\nflow")
    assert read_answer("other", path, ASKED) == Refusal(f"numpy {np.__version__}", "TraceError: control flow")


def test_a_rival_without_an_environment_is_one_line(tmp_path):
    """It says which command makes it; an unknown rival lists those there are."""
    with pytest.raises(environment.MissingEnvironment, match=r"nncf: no environment in .*environment nncf"):
        ask("nncf", ASKED, tmp_path / "environments", tmp_path)
    with pytest.raises(environment.MissingEnvironment, match=r"haq: not a rival\. Legal: modelopt, autoround"):
        environment.make("haq", tmp_path)


def test_what_is_written_for_a_rival_is_what_it_reads(tmp_path):
    """A request and an answer survive the two files."""
    from dataclasses import asdict

    (tmp_path / "request.json").write_text(json.dumps(asdict(ASKED)))
    assert read(tmp_path / "request.json") == ASKED
    answer(tmp_path / "answer.json", "numpy", 1.26, [ONE])
    [plan] = read_answer("numpy", tmp_path / "answer.json", ASKED)
    assert (plan.scoring_s, plan.bits) == (1.3, {"a": 2, "b": 3})


def test_bits_that_a_budget_leaves_to_codes(rtn_scores):
    """A layer here has 8192 weights and 224 rows of 4 bytes each: 7168 / 8192 = 0.875 bits are ranges."""
    assert code_bits(rtn_scores.profile, 3.0, "gptq") == pytest.approx(2.125)


def test_labels_are_given_per_text_or_per_token():
    """Classes by the text's number; tags at the marked tokens, -100 elsewhere."""
    inputs = {"attention_mask": torch.ones(2, 3, dtype=torch.int64)}
    classes = Targets("classes", torch.tensor([5, 6, 7]), torch.arange(3))
    assert labels(TokenBatch(inputs, (2, 0)), classes).tolist() == [7, 5]
    marks = torch.tensor([[False, True, True], [True, False, False]])
    tags = Targets("tags", torch.tensor([1, 2, 3]), torch.tensor([0, 1, 1]))
    assert labels(TokenBatch(inputs, (1, 0), positions=marks), tags).tolist() == [[NONE, 2, 3], [1, NONE, NONE]]


def test_spans_are_given_by_start_and_end():
    """One start and end for each window of the batch; a window without a target has a token beyond the text."""
    inputs = {"input_ids": torch.ones(2, 9, dtype=torch.int64), "attention_mask": torch.ones(2, 9, dtype=torch.int64)}
    spans = Targets("spans", torch.tensor([3, 4, NONE, NONE, 0, 8]), torch.tensor([0, 0, 1, 1, 2, 2]))
    found = right_answers(TokenBatch(inputs, (2, 1)), spans)
    assert {name: rows.tolist() for name, rows in found.items()} == {
        "start_positions": [0, 9],
        "end_positions": [8, 9],
    }


def test_spans_beyond_the_text_do_not_enter_the_loss_of_transformers(tmp_path):
    """The loss over both windows is that of the window with a target alone."""
    from transformers import BertConfig, BertForQuestionAnswering

    torch.manual_seed(0)
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = BertForQuestionAnswering(BertConfig(vocab_size=20, **small)).eval()
    tokens = torch.arange(18).reshape(2, 9)
    given = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    spans = Targets("spans", torch.tensor([3, 4, NONE, NONE]), torch.tensor([0, 0, 1, 1]))
    both = model(**given, **right_answers(TokenBatch(given, (0, 1)), spans)).loss
    first = {name: rows[:1] for name, rows in given.items()}
    alone = model(**first, start_positions=torch.tensor([3]), end_positions=torch.tensor([4])).loss
    assert both.item() == pytest.approx(alone.item(), rel=1e-6)


def test_embeddings_have_no_loss():
    """Without right answers a batch is token ids and mask alone; rivals that need a gradient can tell."""
    ids = {"input_ids": [[1, 2]], "attention_mask": [[1, 1]]}
    assert not has_loss(Asked("m", "embeddings", (), (2,), (2.5,), (ids,)))
    with_labels = Asked("m", "classes", (), (2,), (2.5,), (ids | {"labels": [1]},))
    assert has_loss(with_labels)
    assert [sorted(batch) for batch in inputs(with_labels)] == [["attention_mask", "input_ids"]]


def test_nncf_is_cut_where_its_limit_is_kept():
    """Of 400 weights at a mean of 5 bits at most, 100 + 200 must be low: 4 × 300 + 8 × 100 = 5 × 400."""
    sizes = {"a": 100, "b": 200, "c": 100}
    assert cut(["a", "b", "c"], sizes, 5.0, [2, 3, 4]) == {"a": 4, "b": 4, "c": 8}
    assert cut(["c", "b", "a"], sizes, 2.5, [2, 3, 4]) == {"a": 2, "b": 2, "c": 2}


def test_our_plans_take_no_more_than_the_rivals_bytes(rtn_scores):
    """With one range per row nothing but bits is chosen; the default grid never has the larger sum of scores."""
    elements = rtn_scores.profile.encoder_elements
    for budget in (3.0, 4.1):
        given = int(budget * elements / 8) + 3
        plans = contest.ours(rtn_scores, given)
        assert all(plan.encoder_bytes <= given for plan in plans.values())
        assert {part.choice.grouping for part in plans["rows:each"].matrices} == {"rows:each"}
        assert plans["default grid"].sum_of_scores <= plans["rows:each"].sum_of_scores * (1 + 1e-4)


def test_a_ratio_is_of_sums_and_drawn_in_pairs():
    """Half the loss on every text is a ratio of 0.5 in every draw, however much the texts differ."""
    rows = np.ones(4)
    theirs = Measured(np.array([8.0, 1.0, 0.5, 2.0]), rows, 0.9, 1)
    ours = Measured(theirs.loss / 2, rows, 0.9, 1)
    assert ours.over(theirs) == pytest.approx([0.5, 0.5, 0.5])
    other = Measured(np.array([1.0, 1.0, 1.0, 1.0]), rows, 0.9, 1)
    value, low, high = other.over(theirs)
    assert value == pytest.approx(4 / 11.5) and low < value < high


def test_a_contest_measures_a_canned_answer_and_goes_on(tmp_path, tiny_folder, data_file, monkeypatch):
    """Every row compares at the rival's bytes; a second run has nothing left to do."""
    monkeypatch.setattr(contest, "DEFAULT_GROUPINGS", ("rows:each", "columns:32"))
    canned = []

    def ask_nobody(rival, asked, environments, folder):
        bits = {module: (2, 4)[number % 2] for number, module in enumerate(asked.modules)}
        plan = ONE | {"code_bits": asked.code_bits[0], "bits": bits}
        canned.append((rival, len(asked.batches), sorted(asked.batches[0])))
        return read_answer(rival, answered(folder, plan), asked)

    monkeypatch.setattr(contest, "ask", ask_nobody)
    options = argparse.Namespace(
        model=str(tiny_folder), texts=str(data_file), test=str(data_file), text_column=None, label_column=None,
        environments=tmp_path, work=tmp_path / "work", budgets=(4.0,), rivals=("modelopt",), metrics=("fisher",),
        fit=32, scored=32, measured=20, seed=0, output=tmp_path / "rows.jsonl",
    )  # fmt: skip
    contest.run(options)
    text = options.output.read_text()
    rows = {row["rival"]: row for row in map(json.loads, text.splitlines())}
    assert set(rows) == {"uniform", "modelopt, gradient", "fisher"}
    assert canned == [("modelopt", 2, ["attention_mask", "input_ids", "labels"])]
    theirs = rows["modelopt, gradient"]
    assert (theirs["matrices"], theirs["package"]) == ({"2": 6, "4": 6}, "other 1.2")
    for row in rows.values():
        for mine in row["ours"].values():
            assert mine["bits_per_weight"] <= row["bits_per_weight"]
            assert mine["ratio"][0] == pytest.approx(mine["kl"][0] / row["theirs"]["kl"][0], rel=1e-3)
    contest.run(options)
    assert options.output.read_text() == text


def test_only_keeps_the_scores_of_a_grouping(rtn_scores):
    """The table of one range per row has the same score for each of its choices."""
    part = only(rtn_scores, ["rows:each"])
    where = rtn_scores.choices.index("3bit/rows:each/rtn")
    assert part.value[0][part.choices.index("3bit/rows:each/rtn")] == rtn_scores.value[0][where]
