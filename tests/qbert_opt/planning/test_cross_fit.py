"""The prediction for text that did not choose the plan: unbiased where the sum of scores is optimistic."""

import numpy as np
import pytest

from qbert_opt.planning.constraints import PlanConstraints
from qbert_opt.planning.planner import allocate
from qbert_opt.planning.recipes import uniform_allocation
from qbert_opt.reports.plan import _prediction_lines
from qbert_opt.spec.allocation import read_allocation, write_allocation
from qbert_opt.spec.choices import choice
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.scores import CommonScale, ScoreTable

FOLDS = 8


def noisy(table, generator, *, shape=1.0):
    """The table as one text would give it: each fold's score is the true one times noise of mean 1."""
    true = table.values()
    folds = true * generator.gamma(shape, 1 / shape, (FOLDS, *true.shape))
    document = table.model_dump(by_alias=True)
    as_rows = lambda array: [[None if np.isnan(v) else v for v in row] for row in array.tolist()]  # noqa: E731
    document["value"] = as_rows(folds.mean(0))
    document["fold_value"] = [as_rows(fold) for fold in folds]
    return ScoreTable.model_validate(document)


def true_loss(table, plan):
    """What the plan loses by the noiseless table."""
    return sum(table.values()[i, table.choices.index(m.choice.name)] for i, m in enumerate(plan.matrices))


def test_judges_plans_without_the_bias_of_their_choice(rtn_scores):
    """Over many texts the sum of scores is far below the true loss of its plan; the cross-fitted loss is not."""
    generator = np.random.default_rng(0)
    limits = Limits(encoder_bytes=rtn_scores.profile.encoder_elements * 3 // 8)
    optimism, error, stated = [], [], []
    for _ in range(40):
        plan = allocate(noisy(rtn_scores, generator), limits)
        truth = true_loss(rtn_scores, plan)
        optimism.append(plan.predicted_loss / truth - 1)
        error.append(plan.cross_fitted.loss / truth - 1)
        stated.append(plan.cross_fitted.std_error / truth)
    of_the_mean = np.std(error, ddof=1) / len(error) ** 0.5
    assert np.mean(optimism) < -0.2
    # seven folds choose a little worse than eight: at most a few per cent above the truth
    assert -3 * of_the_mean < np.mean(error) < 0.05 + 3 * of_the_mean
    # eight folds know their spread to about a quarter, 40 texts to an eighth
    assert np.std(error, ddof=1) == pytest.approx(np.mean(stated), rel=0.5)


def test_equal_folds_predict_the_sum_of_scores_exactly(rtn_scores):
    """Without noise nothing was chosen by chance."""
    rows = rtn_scores.model_dump()["value"]
    table = rtn_scores.model_copy(update={"fold_value": (rows,) * FOLDS, "scale": None})
    plan = allocate(table, Limits(encoder_bytes=rtn_scores.profile.encoder_elements // 2))
    assert plan.cross_fitted.loss == pytest.approx(plan.predicted_loss, rel=2e-3)  # the gap of its programs
    assert plan.cross_fitted.std_error == pytest.approx(0.0, abs=2e-3 * plan.predicted_loss)
    assert plan.expected_loss == plan.cross_fitted.loss
    rough = table.model_copy(update={"scale": CommonScale(value=0.5, std_error=0.1)})  # known to a fifth
    again = allocate(rough, Limits(encoder_bytes=rtn_scores.profile.encoder_elements // 2))
    assert again.cross_fitted.std_error == pytest.approx(0.2 * again.cross_fitted.loss, rel=2e-2)


def test_scores_without_folds_have_no_cross_fitted_loss(rtn_scores):
    """Then the sum of scores stands beside what is measured, and the report says nothing else."""
    plan = allocate(
        rtn_scores.model_copy(update={"fold_value": ()}), Limits(encoder_bytes=rtn_scores.profile.encoder_elements // 2)
    )
    assert plan.cross_fitted is None and plan.expected_loss == plan.predicted_loss
    assert "optimistic" in _prediction_lines(plan)[1]
    by_rule = uniform_allocation(rtn_scores, choice("4bit/rows:each/rtn"))  # its sum leans to no side
    assert len(_prediction_lines(by_rule)) == 1


def test_a_plan_of_least_bytes_says_that_its_loss_is_optimistic(rtn_scores):
    """The loss that limits a plan chose it as well, and no fold judges it."""
    table = noisy(rtn_scores, np.random.default_rng(2))
    most = float(np.nansum(np.nanmedian(table.values(), axis=1)))
    plan = allocate(table, Limits(), constraints=PlanConstraints(least="bytes", max_loss=most))
    assert plan.cross_fitted is None and "optimistic" in _prediction_lines(plan)[1]


def test_is_written_read_and_printed(rtn_scores, tmp_path):
    """The prediction travels with the plan; the report shows it above the sum that was minimized."""
    table = noisy(rtn_scores, np.random.default_rng(1))
    plan = allocate(table, Limits(encoder_bytes=table.profile.encoder_elements // 2))
    write_allocation(plan, tmp_path / "plan.json")
    assert read_allocation(tmp_path / "plan.json") == plan
    first, second = _prediction_lines(plan)
    assert f"{plan.cross_fitted.loss:.4g}" in first and f"{plan.predicted_loss:.4g}" in second


def test_folds_of_another_shape_are_refused(rtn_scores):
    """A table whose folds are not as large as its scores is broken."""
    document = rtn_scores.model_dump(by_alias=True)
    document["fold_value"] = [document["value"][:-1]]
    with pytest.raises(ValueError, match="fold_value is not"):
        ScoreTable.model_validate(document)
