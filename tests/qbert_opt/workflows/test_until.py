"""Scoring until the prediction is exact enough: when it stops, and how much text it says is needed."""

import json

import numpy as np
import pytest

from qbert_opt.planning.planner import allocate
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.scores import ScoreTable, write_scores
from qbert_opt.workflows.score import score_model
from qbert_opt.workflows.solve import Solved
from qbert_opt.workflows.until import relative_error, solve_until, texts_needed

FOLDS = 8
PER_TEXT = 6.0  # relative error of the scores from a single text


@pytest.fixture
def score(rtn_scores):
    """Scores as that many texts would give them: all matrices and choices share the noise of a fold."""
    pattern = np.array([-1.0, 1.0] * (FOLDS // 2))

    def scored(count):
        noise = 1 + pattern * PER_TEXT * (FOLDS / count) ** 0.5
        rows = lambda factor: [[None if v is None else factor * v for v in row] for row in rtn_scores.value]  # noqa: E731
        document = rtn_scores.model_dump(by_alias=True)
        document["fold_value"] = [rows(factor) for factor in noise]
        document["scale"] = None
        document["provenance"]["num_scored"] = count
        return ScoreTable.model_validate(document)

    return scored


def plan_of(table):
    """A plan at 4 bits per weight."""
    plan = allocate(table, Limits(encoder_bytes=table.profile.encoder_elements // 2))
    return Solved(plan, (), None, None, None)


def test_texts_needed_grow_with_the_square_of_the_error(score):
    """Half the error takes four times the text; an error that is small enough takes no more."""
    plan = plan_of(score(2000)).plan
    error = relative_error(plan)
    assert texts_needed(plan, error / 2) in (8000, 8001)  # rounded up
    assert texts_needed(plan, 2 * error) == 2000
    assert texts_needed(plan.model_copy(update={"predicted_loss": 0.0}), 0.2) is None


def test_scores_more_text_until_the_prediction_is_exact_enough(score):
    """It stops as soon as it may, and each attempt has more text than the one before."""
    counts = []

    def counted(count):
        counts.append(count)
        return score(count)

    table, solved = solve_until(counted, plan_of, 0.2, start=400, most=100_000)
    assert relative_error(solved.plan) <= 0.2 and counts == sorted(set(counts)) and len(counts) > 1
    assert table.provenance.num_scored == counts[-1] and relative_error(plan_of(score(counts[-2])).plan) > 0.2
    # no more than the error asks for, with its margin
    assert counts[-1] <= 1.2 * texts_needed(plan_of(score(counts[0])).plan, 0.2)


def test_ends_with_all_text_where_that_is_too_little(score):
    """The last plan is from all text, and it is known how much more it needs."""
    table, solved = solve_until(score, plan_of, 0.01, start=400, most=900)
    assert table.provenance.num_scored == 900 and relative_error(solved.plan) > 0.01
    assert texts_needed(solved.plan, 0.01) > 900


def test_solve_says_how_much_more_text_scores_need(score, tmp_path, cli):
    """`--until` beside `--scores` scores nothing; it names the number of texts, or is silent where they are enough."""
    write_scores(score(400), tmp_path / "scores.json")
    line = ["solve", "--scores", tmp_path / "scores.json", "--budget", "4bit", "--json", "--until"]
    done = cli(*line, "10%")
    plan = json.loads(done.out)
    error = plan["predicted_std_error"] / plan["predicted_loss"]
    more = int(done.err.split("about ")[1].split(" more")[0].replace(",", ""))
    assert done.code == 0 and more == pytest.approx(400 * ((error / 0.1) ** 2 - 1), rel=0.01, abs=1)
    assert "--until" not in cli(*line, "500%").err
    refused = cli(*line, "0%")
    assert refused.code == 2 and "--until 0%: a prediction always has an error." in refused.complaint


def test_more_texts_are_drawn_from_the_same_pool(tiny_folder, data_file, tmp_path, cli, monkeypatch):
    """`--until` beside `--scoring-pool`: draws grow, tables are scored too, and a whole pool ends it with a warning."""
    plans = []

    def recorded(*args, **given):
        table = score_model(*args, **given)
        plans.append((given["calibration"].num_scored, given["calibration"].num_pool, table))
        return table

    monkeypatch.setattr("qbert_opt.workflows.score.score_model", recorded)
    done = cli(
        "solve", "--model", tiny_folder, "--data", data_file, "--method", "rtn", "--total-budget", "6bit",
        "--calibration-samples", 9, "--scoring-samples", 16, "--scoring-pool", 60, "--until", "1%", "-q",
        "-o", tmp_path / "plan.json",
    )  # fmt: skip
    assert done.code == 0, done.err
    counts, pools, tables = zip(*plans, strict=True)
    assert counts[0] == 16 and counts[-1] == 60 and list(counts) == sorted(set(counts)) and set(pools) == {60}
    assert all(table.tables is not None and table.provenance.num_calibration == 9 for table in tables)
    assert "--until 1%: the predicted loss is known only to" in done.err and "from 60 texts" in done.err
    plans.clear()
    cli(
        "solve", "--model", tiny_folder, "--data", data_file, "--method", "rtn", "--total-budget", "6bit",
        "--calibration-samples", 9, "--scoring-samples", 16, "--scoring-pool", 60, "--until", "1000%", "-q",
    )  # fmt: skip
    assert [count for count, *_ in plans] == [16]


def test_a_pool_smaller_than_the_first_draw_is_refused(tiny_folder, data_file, cli):
    done = cli(
        "solve", "--model", tiny_folder, "--data", data_file, "--method", "rtn", "--total-budget", "6bit",
        "--scoring-samples", 40, "--scoring-pool", 30, "--calibration-samples", 9, "--until", "20%", "-q",
    )  # fmt: skip
    assert done.code == 2 and "--scoring-pool 30: smaller than --scoring-samples 40" in done.complaint
