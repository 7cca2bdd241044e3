"""Stability of plans under resampled text, against plans known without a solver, and on the command line."""

import json

import numpy as np
import pytest

from qbert_opt.errors import InputFileError, UsageError
from qbert_opt.planning.planner import SolverOptions
from qbert_opt.planning.program import PlanningTask
from qbert_opt.planning.stability import measure_stability, read_stability, write_stability
from qbert_opt.planning.task_solver import solve_task
from qbert_opt.reports.stability import stability_lines
from qbert_opt.spec.limits import Limits

NO_LIMIT = 10**12
FOLDS = 8


def with_folds(table, folds):
    """Return the table with these scores for each part, float64 [folds, matrices, choices]; NaN where masked."""
    rows = lambda values: tuple(tuple(None if np.isnan(v) else float(v) for v in row) for row in values)  # noqa: E731
    update = {"value": rows(folds.mean(0)), "fold_value": tuple(rows(fold) for fold in folds), "tables": None}
    return table.model_copy(update=update)


def measure(table, encoder_bytes, resamples=10):
    task = PlanningTask(table, Limits(encoder_bytes=encoder_bytes))
    return measure_stability(task, solve_task(task, SolverOptions()), resamples=resamples)


@pytest.fixture(scope="module")
def noisy(rtn_scores):
    """Return scores whose parts differ by a random factor, independent for each choice."""
    noise = np.random.default_rng(0).lognormal(0, 1.0, (FOLDS, *rtn_scores.values().shape))
    return with_folds(rtn_scores, rtn_scores.values() * noise)


def test_without_limits_every_plan_is_known(noisy):
    """If bytes do not bind, each matrix has its least score: shares, regret and losses are known by hand."""
    folds = np.array(noisy.fold_value, dtype=float)
    stability = measure(noisy, NO_LIMIT)
    generator = np.random.default_rng(noisy.provenance.seed)
    least = lambda values: np.nanargmin(values, axis=1)  # noqa: E731
    at = lambda values, chosen: values[np.arange(len(chosen)), chosen].sum()  # noqa: E731
    draws = [least(folds[generator.integers(0, FOLDS, FOLDS)].mean(0)) for _ in range(10)]
    own = least(noisy.values())
    kept = {m.module: np.mean([d[i] == own[i] for d in draws]) for i, m in enumerate(noisy.profile.matrices)}
    assert {item.module: item.kept for item in stability.items} == pytest.approx(kept)
    assert [item.kept for item in stability.items] == sorted(item.kept for item in stability.items)
    assert stability.items[0].kept < 1
    expected = np.mean([at(noisy.values(), d) for d in draws]) / at(noisy.values(), own) - 1
    assert stability.regret == pytest.approx(expected) and stability.regret > 0
    losses = np.empty((FOLDS, FOLDS - 1))
    for out in range(FOLDS):
        order = generator.permutation([k for k in range(FOLDS) if k != out])
        for used in range(1, FOLDS):
            losses[out, used - 1] = at(folds[out], least(folds[order[:used]].mean(0)))
    assert [t.loss for t in stability.text] == pytest.approx(losses.mean(0))
    assert [t.excess for t in stability.text] == pytest.approx(losses.mean(0) / losses.mean(0)[-1])
    for item in stability.items:
        assert item.kept + sum(share for _, share in item.rivals) == pytest.approx(1)
        assert item.kept_bits >= item.kept


def test_equal_parts_change_nothing(rtn_scores):
    """If all parts agree, every resample gives the same plan, and the first part is enough."""
    same = with_folds(rtn_scores, np.stack([rtn_scores.values()] * FOLDS))
    stability = measure(same, same.profile.encoder_elements // 3, resamples=4)
    assert all(item.kept == 1 and item.kept_bits == 1 and not item.rivals for item in stability.items)
    assert stability.regret == pytest.approx(0, abs=1e-3)
    assert all(t.excess == pytest.approx(1, abs=1e-3) and t.std_error < 1e-3 for t in stability.text)
    assert stability.enough == stability.samples_per_fold == same.provenance.num_scored // FOLDS
    lines = list(stability_lines(stability))
    assert "12 of 12 matrices keep their choice" in lines[0] and lines[-1].startswith("5 samples are enough")


def test_the_least_stable_matrix_is_listed_first(rtn_scores):
    """If one matrix's best choice differs between the parts, it leads the list, with its rival."""
    folds = np.where(np.isnan(rtn_scores.values()), np.nan, np.ones((FOLDS, 1, 1)))
    folds[:, :, 0] = 0.5
    folds[::2, 5, :2] = 0.9, 0.1
    folds[1::2, 5, :2] = 0.1, 0.9
    stability = measure(with_folds(rtn_scores, folds), NO_LIMIT, resamples=20)
    assert stability.items[0].module == rtn_scores.profile.matrices[5].module and 0 < stability.items[0].kept < 1
    assert stability.items[0].rivals and all(item.kept == 1 for item in stability.items[1:])
    assert stability.items[0].module in list(stability_lines(stability))[1]


def test_plans_from_more_text_lose_less_on_held_out_parts(rtn_scores):
    """If choices differ as much as the parts do, plans from more parts lose less on held-out parts, over eight draws.

    The mean excess of the first part is above one by more than three of the standard errors that the draws report.
    """
    losing = []
    for seed in range(8):
        generator = np.random.default_rng(seed)
        true = np.where(np.isnan(rtn_scores.values()), np.nan, generator.uniform(1, 2, rtn_scores.values().shape))
        parts = true * generator.gamma(4, 1 / 4, (FOLDS, *true.shape))
        losing.append(measure(with_folds(rtn_scores, parts), NO_LIMIT, resamples=1))
    assert all(result.text[-1].excess == 1 and result.text[-1].std_error == 0 for result in losing)
    excess = [result.text[0].excess for result in losing]
    error = np.sqrt(np.mean([result.text[0].std_error ** 2 for result in losing]) / len(losing))
    assert np.mean(excess) - 1 > 3 * error, (excess, error)
    assert "more text would still help" in list(stability_lines(losing[0].model_copy(update={"enough": None})))[-1]


def test_scores_without_parts_are_refused(rtn_scores):
    """Data-free scores cannot be resampled."""
    with pytest.raises(UsageError, match=r"`stability`: directional scores of 40 samples have no folds"):
        measure(rtn_scores.model_copy(update={"fold_value": ()}), NO_LIMIT)


def test_the_document_round_trips(noisy, tmp_path):
    """Exact round trip; another kind of document is rejected."""
    stability = measure(noisy, NO_LIMIT, resamples=2)
    write_stability(stability, tmp_path / "s.json")
    assert read_stability(tmp_path / "s.json") == stability
    document = json.loads((tmp_path / "s.json").read_text()) | {"schema": "qbert-opt/scores@1"}
    (tmp_path / "s.json").write_text(json.dumps(document))
    with pytest.raises(InputFileError, match=r"this version reads 'qbert-opt/stability@1'"):
        read_stability(tmp_path / "s.json")


def test_the_command_line_writes_stability(cli, tmp_path, tiny_folder, data_file):
    """Writes scores, and stability next to them; an invalid budget is rejected before the work starts."""
    options = ("--model", tiny_folder, "--data", data_file, "--method", "rtn", "--bits", "2,4", "--groupings",
               "rows:1,columns:16", "--calibration-samples", 9, "--scoring-samples", 40, "-q")  # fmt: skip
    run = cli("sensitivity", *options, "--stability", 3, "--budget", "3bit", "-o", tmp_path / "s.json")
    assert run.code == 0, run.err
    assert "3 plans of" in run.out and "loss on unseen text" in run.out
    assert read_stability(tmp_path / "stability.json").resamples == 3
    wrong = cli("sensitivity", *options, "--stability", 3, "--budget", "3Mb", "-o", tmp_path / "t.json")
    assert wrong.code == 2 and "--budget 3Mb" in wrong.complaint
    assert not (tmp_path / "t.json").exists()
