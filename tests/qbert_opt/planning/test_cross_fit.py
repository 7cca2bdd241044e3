"""The cross-fitted prediction, which is unbiased where the sum of scores is optimistic."""

import json
import math
import warnings
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

from qbert_opt.errors import InfeasibleError, InputFileError, QbertOptWarning
from qbert_opt.planning.constraints import PlanConstraints
from qbert_opt.planning.cross_fit import cross_fit
from qbert_opt.planning.frontier import trade_off
from qbert_opt.planning.planner import allocate
from qbert_opt.planning.program import PlanningTask
from qbert_opt.planning.recipes import uniform_allocation
from qbert_opt.planning.solving import SolverOptions
from qbert_opt.planning.stand_ins import Sweep
from qbert_opt.planning.task_solver import solve_task
from qbert_opt.reports.html import html_report
from qbert_opt.reports.plan import _limit_lines, _loss_lines, _prediction_lines
from qbert_opt.reports.trade_off import shortlist_table
from qbert_opt.spec.allocation import PLAN_SPREAD, read_allocation, write_allocation
from qbert_opt.spec.choices import choice
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.score_parts import CommonScale
from qbert_opt.spec.scores import ScoreTable, read_scores
from qbert_opt.workflows.solve import Shortlist, solve_plans
from solvers import ChoiceProblem, solve

FOLDS = 8
RESULTS = Path(__file__).parents[3] / "benchmarks"
ALL = SolverOptions()


def noisy(table, generator, *, shape=1.0):
    """Return the table as one text would give it: each fold's score is the true score times noise of mean 1."""
    true = table.values()
    folds = true * generator.gamma(shape, 1 / shape, (FOLDS, *true.shape))
    document = table.model_dump(by_alias=True)
    as_rows = lambda array: [[None if np.isnan(v) else v for v in row] for row in array.tolist()]  # noqa: E731
    document["value"] = as_rows(folds.mean(0))
    document["fold_value"] = [as_rows(fold) for fold in folds]
    return ScoreTable.model_validate(document)


def true_loss(table, plan):
    """Return the plan's loss by the noiseless table."""
    return sum(table.values()[i, table.choices.index(m.choice.name)] for i, m in enumerate(plan.matrices))


@pytest.mark.slow
def test_judges_plans_without_the_bias_of_their_choice(rtn_scores):
    """Over many texts, the sum of scores is far below the true loss of its plan; the cross-fitted loss is not."""
    generator = np.random.default_rng(0)
    limits = Limits(encoder_bytes=rtn_scores.profile.encoder_elements * 3 // 8)
    optimism, error, stated = [], [], []
    for _ in range(40):
        task = PlanningTask(noisy(rtn_scores, generator), limits)
        plan = solve_task(task, SolverOptions())
        judged = cross_fit(task, plan.problem)
        truth = rtn_scores.values()[range(len(plan.solution.choice)), plan.solution.choice].sum()
        optimism.append(plan.solution.value / truth - 1)
        error.append(judged.loss / truth - 1)
        stated.append(judged.std_error / truth)
    of_the_mean = np.std(error, ddof=1) / len(error) ** 0.5
    assert np.mean(optimism) < -0.2
    # seven folds choose a little worse than eight: at most a few per cent above the truth
    assert -3 * of_the_mean < np.mean(error) < 0.05 + 3 * of_the_mean
    # eight folds know their spread to about a quarter, 40 texts to an eighth
    assert np.std(error, ddof=1) == pytest.approx(np.mean(stated), rel=0.5)


def test_equal_folds_predict_the_sum_of_scores_exactly(rtn_scores):
    """Without noise there is no selection bias."""
    rows = rtn_scores.model_dump()["value"]
    table = rtn_scores.model_copy(update={"fold_value": (rows,) * FOLDS, "scale": None})
    plan = allocate(table, Limits(encoder_bytes=rtn_scores.profile.encoder_elements // 2))
    assert plan.folds == FOLDS
    assert plan.predicted_loss == pytest.approx(plan.sum_of_scores, rel=2e-3)  # the gap of its programs
    assert plan.predicted_std_error == pytest.approx(0.0, abs=2e-3 * plan.predicted_loss)
    rough = table.model_copy(update={"scale": CommonScale(value=0.5, std_error=0.1)})  # known to a fifth
    again = allocate(rough, Limits(encoder_bytes=rtn_scores.profile.encoder_elements // 2))
    assert again.predicted_std_error == pytest.approx(0.2 * again.predicted_loss, rel=2e-2)


def test_scores_without_folds_have_no_cross_fitted_loss(rtn_scores):
    """The sum of scores is then shown next to the measured loss, without a cross-fitted prediction."""
    plan = allocate(
        rtn_scores.model_copy(update={"fold_value": ()}), Limits(encoder_bytes=rtn_scores.profile.encoder_elements // 2)
    )
    assert plan.folds == 0 and plan.predicted_loss == plan.sum_of_scores
    assert "optimistic" in _prediction_lines(plan)[1]
    by_rule = uniform_allocation(rtn_scores, choice("4bit/rows:each/rtn"))  # its sum leans to no side
    assert len(_prediction_lines(by_rule)) == 1


def test_a_plan_of_least_bytes_is_judged_too(rtn_scores):
    """It is judged by plans of least loss with as many bytes, and that prediction is what meets the limit."""
    table = noisy(rtn_scores, np.random.default_rng(2))
    most = float(np.nansum(np.nanmedian(table.values(), axis=1)))
    plan = allocate(table, Limits(), constraints=PlanConstraints(least="bytes", max_loss=most))
    same_bytes = allocate(table, Limits(encoder_bytes=plan.encoder_bytes))
    assert plan.folds == FOLDS and plan.sum_of_scores < plan.predicted_loss <= most
    assert plan.predicted_loss == pytest.approx(same_bytes.predicted_loss, rel=1e-6)
    by_sum = solve_task(PlanningTask(table, Limits(), constraints=PlanConstraints(least="bytes", max_loss=most)), ALL)
    assert by_sum.solution.value < plan.encoder_bytes  # which is what the limit on the sum alone would have given
    predicted, in_program = plan.limits
    assert (predicted.resource, predicted.capacity, predicted.used) == ("predicted_loss", most, plan.predicted_loss)
    assert in_program.resource == "sum_of_scores" and plan.sum_of_scores <= in_program.capacity < most
    assert not any(line.startswith("warning") for line in _limit_lines(plan))
    proof = next(line for line in _loss_lines(plan) if line.startswith("status"))
    assert f"among plans whose sum of scores is at most {in_program.capacity:.4g}" in proof
    # of all plans with a sum within that bound, none has fewer bytes
    again = PlanningTask(table, Limits(), constraints=PlanConstraints(least="bytes", max_loss=in_program.capacity))
    assert solve_task(again, ALL).solution.value == plan.encoder_bytes


def test_a_limit_on_loss_below_every_prediction_names_the_smallest_found(rtn_scores):
    """The value in the message is a predicted loss: asking for it gives a plan, and the plan keeps it as printed."""
    table = noisy(rtn_scores, np.random.default_rng(2))
    with pytest.raises(InfeasibleError, match=r"`max_loss` = 1e-12: smallest predicted loss found: (\S+)\. ") as stop:
        allocate(table, Limits(), constraints=PlanConstraints(least="bytes", max_loss=1e-12))
    smallest = float(str(stop.value).split("found: ")[1].split(". ")[0])
    plan = allocate(table, Limits(), constraints=PlanConstraints(least="bytes", max_loss=smallest))
    assert plan.predicted_loss <= smallest <= plan.predicted_loss * 1.001
    below = smallest * 0.99
    with pytest.raises(InfeasibleError):
        allocate(table, Limits(), constraints=PlanConstraints(least="bytes", max_loss=below))


def test_every_plan_of_a_shortlist_has_a_cross_fitted_loss(rtn_scores):
    """Each is judged by what the rest of the text would choose among plans that differ as much; the order is proven."""
    table = noisy(rtn_scores, np.random.default_rng(7))
    budget = Limits(encoder_bytes=table.profile.encoder_elements * 3 // 8)
    plans = solve_plans(table, budget, shortlist=Shortlist(4)).plans
    assert len(plans) == 4 and {plan.folds for plan in plans} == {FOLDS}
    sums = [plan.sum_of_scores for plan in plans]
    assert sums == sorted(sums)
    # every fold's best plan differs from the full text's in another way, so its loss is not below by selection
    assert all(plan.predicted_loss > 1.1 * plan.sum_of_scores for plan in plans)
    title = shortlist_table(plans).title
    assert "the least sum of scores first" in title and "cross-fitted" in title
    printed = [column.header for column in shortlist_table(plans).columns]
    assert printed[:3] == ["plan", "predicted loss", "sum of scores"]


def test_a_shortlist_under_a_limit_on_loss_keeps_it(rtn_scores):
    """No plan that is listed is predicted to lose more than the limit, and the order is that of the bytes."""
    table = noisy(rtn_scores, np.random.default_rng(2))
    most = float(np.nansum(np.nanmedian(table.values(), axis=1)))
    asked = PlanConstraints(least="bytes", max_loss=most)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QbertOptWarning)
        plans = solve_plans(table, Limits(), constraints=asked, shortlist=Shortlist(4)).plans
    assert all(plan.predicted_loss <= most for plan in plans)
    assert [plan.encoder_bytes for plan in plans] == sorted(plan.encoder_bytes for plan in plans)


def test_is_written_read_and_printed(rtn_scores, tmp_path):
    """The prediction is stored in the plan; the report shows it above the minimized sum."""
    table = noisy(rtn_scores, np.random.default_rng(1))
    plan = allocate(table, Limits(encoder_bytes=table.profile.encoder_elements // 2))
    write_allocation(plan, tmp_path / "plan.json")
    assert read_allocation(tmp_path / "plan.json") == plan
    first, second = _prediction_lines(plan)
    assert f"{plan.predicted_loss:.4g}" in first and f"{plan.sum_of_scores:.4g}" in second


def test_the_interval_holds_the_texts_error_and_a_spread_of_plans(rtn_scores):
    """Log-normal, 90 %: both parts add in squares; the report shows it, and scores that only rank have none."""
    table = noisy(rtn_scores, np.random.default_rng(1))
    plan = allocate(table, Limits(encoder_bytes=table.profile.encoder_elements // 2))
    low, high = plan.predicted_interval
    error = plan.predicted_std_error / plan.predicted_loss
    assert low * high == pytest.approx(plan.predicted_loss**2) and error > 0
    assert NormalDist().cdf(math.log(high / plan.predicted_loss) / math.hypot(PLAN_SPREAD, error)) == pytest.approx(
        0.95, abs=1e-4
    )
    assert f"90 % interval {low:.2g} to {high:.2g}" in _prediction_lines(plan)[1]
    assert plan.model_copy(update={"metric": "qbert"}).predicted_interval is None
    for loss in (1e-320, 1e-9, plan.predicted_std_error / 3.01):
        lost = plan.model_copy(update={"predicted_loss": loss})
        assert lost.predicted_interval is None and "interval" not in _prediction_lines(lost)[1]


def test_committed_plans_lie_in_their_intervals(rtn_scores):
    """At least 90 % of the measured losses of `coverage.py`, and of other scores' plans of large samples."""
    coverage = (RESULTS / "predictions" / "coverage_results.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in coverage.splitlines()]
    selection = json.loads((RESULTS / "allocation" / "selection_results.json").read_text(encoding="utf-8"))
    rows += [row for row in selection["rows"] if "predicted" in row]
    plan = allocate(rtn_scores, Limits(encoder_bytes=rtn_scores.profile.encoder_elements // 2))
    inside = []
    for row in rows:
        made = {"predicted_loss": row["predicted"], "predicted_std_error": row["std_error"]}
        low, high = plan.model_copy(update=made).predicted_interval
        inside.append(low <= row["kl"][0] <= high)
    assert len(rows) > 50 and sum(inside) >= 0.9 * len(rows)


def test_a_plan_of_the_first_schema_keeps_its_meaning(rtn_scores, tmp_path):
    """In the first schema `predicted_loss` was the sum of scores, and the prediction was in `cross_fitted`."""
    plan = allocate(rtn_scores, Limits(encoder_bytes=rtn_scores.profile.encoder_elements // 2))
    old = json.loads(plan.model_dump_json(by_alias=True))
    for name in ("sum_of_scores", "sum_std_error", "folds"):
        del old[name]
    old |= {"schema": "qbert-opt/allocation@1", "objective": "predicted_loss", "next_mb_gain": 0.5}
    old |= {"predicted_loss": plan.sum_of_scores, "predicted_std_error": plan.sum_std_error}
    path = tmp_path / "old.json"
    path.write_text(json.dumps(old | {"cross_fitted": {"loss": 2.0, "std_error": 1.0, "folds": 8}}))
    read = read_allocation(path)
    assert (read.sum_of_scores, read.sum_std_error) == (plan.sum_of_scores, plan.sum_std_error)
    assert (read.predicted_loss, read.predicted_std_error, read.folds) == (2.0, 1.0, 8)
    assert read.objective == "sum_of_scores" and read.next_mb_gain is None
    path.write_text(json.dumps(old))
    read = read_allocation(path)
    assert read.predicted_loss == read.sum_of_scores == plan.sum_of_scores and (read.folds, read.next_mb_gain) == (
        0,
        0.5,
    )
    write_allocation(read, path)
    assert read_allocation(path) == read


def test_a_uniform_plan_is_judged_as_it_would_be_by_cross_fitting(rtn_scores):
    """No text chose it: all folds judge the same plan, and the error is that of a mean over folds."""
    table = noisy(rtn_scores, np.random.default_rng(3))
    plan = allocate(table, Limits(encoder_bytes=table.profile.encoder_elements // 2))
    for rival in plan.uniform:
        column = table.choices.index(rival.choice)
        by_fold = [math.fsum(row[column] for row in fold) for fold in table.fold_value]
        assert rival.predicted_loss == pytest.approx(np.mean(by_fold))
        own = np.std(by_fold, ddof=1) / FOLDS**0.5
        scale = 0.0 if table.scale is None else rival.predicted_loss * table.scale.std_error / table.scale.value
        assert rival.predicted_std_error == pytest.approx(math.hypot(own, scale))


def test_one_more_mb_is_in_the_unit_of_the_prediction(rtn_scores, monkeypatch):
    """The gain is the prediction at this budget minus that at one more MB, not a difference of sums of scores."""
    from qbert_opt.planning import comparisons

    monkeypatch.setattr(comparisons, "MB", 1000)
    table = noisy(rtn_scores, np.random.default_rng(4))
    budget = table.profile.encoder_elements * 3 // 8
    plan, wider = (allocate(table, Limits(encoder_bytes=size)) for size in (budget, budget + 1000))
    assert plan.next_mb_gain == pytest.approx(plan.predicted_loss - wider.predicted_loss, rel=1e-6)


def test_a_frontier_predicts_what_solve_predicts(rtn_scores):
    """The approximate plans of a sweep judge almost like solved ones; the sum of scores is the solver's own."""
    table = noisy(rtn_scores, np.random.default_rng(5))
    curve = trade_off(PlanningTask(table, Limits()), ("bytes",), points=9)
    ratios = []
    for point in curve.points[:: max(1, len(curve.points) // 8)]:
        plan = allocate(table, Limits(encoder_bytes=math.floor(point.capacity["encoder_bytes"])))
        assert point.sum_of_scores == pytest.approx(plan.sum_of_scores, rel=1e-5)
        # with exponential noise two plans of nearly equal score may differ more on a fold that chose neither
        assert abs(point.predicted_loss - plan.predicted_loss) <= point.predicted_std_error
        ratios.append(point.predicted_loss / plan.predicted_loss)
    assert np.median(ratios) == pytest.approx(1, abs=0.05)


def test_a_sweep_finds_the_best_plans_of_small_programs():
    """Against exhaustive search: within a few per cent on average, never better, never above a capacity."""
    generator, excess = np.random.default_rng(6), []
    for _ in range(40):
        items, options = 6, 4
        use = np.sort(generator.integers(1, 20, (2, items, options)).astype(float), axis=2)
        value = np.sort(generator.gamma(1.0, 1.0, (items, options)), axis=1)[:, ::-1].copy()
        problem = ChoiceProblem(
            items=tuple(map(str, range(items))), options=tuple(map(str, range(options))), value=value,
            usage={"a": use[0], "b": use[1]}, capacity={"a": np.inf, "b": np.inf},
        )  # fmt: skip
        capacity = {"a": use[0].mean() * items, "b": use[1].mean() * items}
        chosen = Sweep(problem, value, ("a", "b")).choose(capacity)
        best = solve(replace(problem, capacity=capacity), "exhaustive")
        if chosen is None:
            assert best.choice is None
            continue
        rows = np.arange(items)
        assert all(use[k][rows, chosen].sum() <= limit + 1e-9 for k, limit in enumerate(capacity.values()))
        excess.append(value[rows, chosen].sum() / best.value - 1)
        assert excess[-1] >= -1e-9
    assert np.mean(excess) < 0.05


def test_a_plan_that_a_uniform_one_beats_says_so(rtn_scores):
    """A plan may be optimal by its scores, yet predicted to be worse than a uniform plan: the report says so."""
    plan = allocate(rtn_scores, Limits(encoder_bytes=rtn_scores.profile.encoder_elements // 2))
    assert not any(line.startswith("warning") for line in _loss_lines(plan))
    beaten = plan.model_copy(update={"predicted_loss": 2 * plan.uniform[0].predicted_loss})
    [line] = [line for line in _loss_lines(beaten) if line.startswith("warning")]
    assert plan.uniform[0].choice in line and "0.5x" in " ".join(_loss_lines(beaten))
    assert plan.uniform[0].choice in html_report(beaten).split("is predicted to lose less than this plan")[0][-200:]


def test_folds_of_another_shape_are_refused(rtn_scores):
    """A table whose folds have another shape than its scores is rejected."""
    document = rtn_scores.model_dump(by_alias=True)
    document["fold_value"] = [document["value"][:-1]]
    with pytest.raises(ValueError, match="fold_value is not"):
        ScoreTable.model_validate(document)


@pytest.mark.parametrize("array", ["std_error", "fold_value"])
def test_arrays_of_a_score_table_are_masked_together(rtn_scores, array):
    """A null in the scores of one fold would make that fold unsolvable; it is named when the table is read."""
    document = json.loads(rtn_scores.model_dump_json(by_alias=True))
    rows = document["fold_value"][0] if array == "fold_value" else document[array]
    assert rows[0][0] is not None
    rows[0][0] = None
    with pytest.raises(ValueError, match=f"{array} is not null exactly where value is"):
        ScoreTable.model_validate(document)


@pytest.mark.parametrize("array", ["value", "std_error", "fold_value"])
def test_scores_whose_squares_overflow_are_refused(rtn_scores, tmp_path, array):
    """A finite score of 1e200 has no square; it is named when the table is read, not met in the middle of a solve."""
    document = json.loads(rtn_scores.model_dump_json(by_alias=True))
    rows = document["fold_value"][0] if array == "fold_value" else document[array]
    rows[0][0] = 1e200
    (tmp_path / "scores.json").write_text(json.dumps(document))
    with pytest.raises(InputFileError, match=rf"{array}\.(0\.)?0\.0: .*less than or equal to 1e\+100, found 1e\+200"):
        read_scores(tmp_path / "scores.json")
