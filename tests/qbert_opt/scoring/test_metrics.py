"""The contract of every metric, and each metric against its formula."""

import dataclasses

import numpy as np
import pytest
import torch

from qbert_opt.curvature.factors import EXACT, factor_pass
from qbert_opt.evaluation.evaluate import kl_divergence
from qbert_opt.models.batches import logits, tokenize
from qbert_opt.models.labels import label_ids
from qbert_opt.models.structure import profile_model
from qbert_opt.models.targets import Targets
from qbert_opt.quantization.calibration import MatrixQuantizer
from qbert_opt.runtime import plugins
from qbert_opt.runtime.memory_budget import MemoryShares
from qbert_opt.scoring.hessian_operators import priced_by
from qbert_opt.scoring.task import ScoringTask
from qbert_opt.spec.grids import grid
from qbert_opt.spec.score_parts import MatrixCurvature

METRICS = plugins.available("metrics")
SOME = [0, 4, 5]


@pytest.fixture(scope="module")
def make_task(tiny, sentences):
    """Makes fresh scoring tasks of the first layer over 30 sentences; a few choices at a time when asked."""
    whole = profile_model(tiny)
    profile = whole.model_copy(update={"matrices": whole.matrices[:6], "num_blocks": 1})
    sample = sentences.take(range(30))
    quantizer = MatrixQuantizer(tiny, profile, "rtn", None)
    choices = grid((2, 4), ("rows:1", "columns:32"), "rtn")

    def make(limit=1 << 30, at_a_time=4):
        return ScoringTask(
            model=tiny.model,
            profile=profile,
            batches=tokenize(tiny.tokenizer, sample.texts, batch_size=16),
            targets=Targets(
                "classes",
                torch.tensor(label_ids(tiny.labels, sample.labels, source="sample", model="tiny")),
                torch.arange(len(sample)),
            ),
            perturbations=lambda matrix: iter(quantizer.errors(matrix, choices).split(at_a_time)),
            shares=MemoryShares(limit),
            seed=0,
            sizes={m.module: [c.bytes(m.rows, m.columns, heads=4) for c in choices] for m in profile.matrices},
            budget_bytes=3 * sum(m.elements for m in profile.matrices) // 8,
        )

    return make


@pytest.fixture(scope="module")
def scored(make_task):
    """Every metric's task and estimates, made once."""
    result = {}

    def get(metric):
        if metric not in result:
            task = make_task()
            result[metric] = task, dict(plugins.load("metrics", metric).score(task, SOME))
        return result[metric]

    return get


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_gives_estimates(scored, metric):
    """Each pending matrix once: finite scores, standard errors, and the number of texts; losses fall with bits."""
    task, result = scored(metric)
    plugin = plugins.load("metrics", metric)
    assert plugin.LOSS_UNIT and plugin.CONTAINS
    assert isinstance(plugin.NEEDS_LABELS, bool)
    assert list(result) == SOME
    for estimate in result.values():
        assert estimate.value.shape == estimate.std_error.shape == (4,)
        assert estimate.value.dtype == estimate.std_error.dtype == torch.float64
        assert (estimate.value > 0).all()
        if metric == "differentiable":  # a coarse error is preferred where it cancels those of other matrices
            assert (-estimate.value).exp().sum().item() == pytest.approx(1)
        else:
            assert (estimate.value[:2] > estimate.value[2:]).all()
        if metric == "weight-error":
            assert estimate.samples == 0 and not estimate.std_error.any()
        else:
            assert estimate.samples == task.num_samples == 30
            assert (estimate.std_error > 0).all()


@pytest.mark.parametrize("metric", METRICS)
def test_scores_are_the_same_bits_again_and_one_by_one(scored, make_task, metric):
    """Same seed and threads give identical bits; a matrix scores the same whatever else is pending."""
    _, result = scored(metric)
    again = dict(plugins.load("metrics", metric).score(make_task(), [5]))
    assert torch.equal(again[5].value, result[5].value)
    assert torch.equal(again[5].std_error, result[5].std_error)


@pytest.mark.parametrize("metric", [name for name in METRICS if name != "differentiable"])
def test_little_memory_gives_the_same_scores(scored, make_task, metric):
    """Several passes, parts and choices at a time change scores only by rounding."""
    if metric in ("trace", "qbert", "top-eigenvalue", "qbert-matrix"):
        limit = 2_000_000 if metric != "qbert" else 8_000_000
    else:
        limit = 150_000
    task = make_task(limit, at_a_time=1)
    if metric == "trace":  # other groups of matrices, other signs: equal within the noise
        result = dict(plugins.load("metrics", metric).score(task, SOME))
        for index, estimate in scored(metric)[1].items():
            gap = (result[index].value - estimate.value).abs()
            assert (gap < 4 * (result[index].std_error + estimate.std_error)).all()
        return
    for index, estimate in plugins.load("metrics", metric).score(task, SOME):
        tolerance = 2e-2 if "eigenvalue" in metric or "qbert" in metric else 1e-4
        torch.testing.assert_close(estimate.value, scored(metric)[1][index].value, rtol=tolerance, atol=0)


def test_measured_is_the_loss_of_each_change_alone(scored, tiny):
    """Compared with a copy of the model with the rounded matrix; the model itself is unchanged afterwards."""
    task, result = scored("measured")
    matrix = task.profile.matrices[5]
    weight = tiny.model.get_parameter(f"{matrix.module}.weight")
    before = weight.detach().clone()
    reference = logits(tiny.model, task.batches)
    for error, value, std_error in zip(
        next(task.perturbations(matrix)), result[5].value, result[5].std_error, strict=True
    ):
        with torch.no_grad():
            weight.add_(error)
        losses = kl_divergence(reference, logits(tiny.model, task.batches))
        with torch.no_grad():
            weight.copy_(before)
        assert value.item() == pytest.approx(losses.mean().item(), rel=1e-12)
        assert std_error.item() == pytest.approx(losses.std().item() / 30**0.5)


@pytest.mark.parametrize(("metric", "place"), [("measured", "choice 3"), ("differentiable", "step 3 of 16")])
def test_weights_are_put_back_when_interrupted(make_task, metric, place):
    """Ctrl-C in the middle leaves the user's model unchanged."""
    task = make_task()
    before = {name: value.clone() for name, value in task.model.state_dict().items()}

    def stop(text):
        if text.endswith(place):
            raise KeyboardInterrupt

    task.note = stop
    with pytest.raises(KeyboardInterrupt):
        list(plugins.load("metrics", metric).score(task, SOME))
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())


def test_fisher_is_the_diagonal_of_the_models_own_fisher(scored):
    """½ Σ F_ii ΔW_i² with F_ii = mean over samples of Σ_c p_c (∂ log p_c)², gradient by gradient."""
    task, result = scored("fisher")
    matrix = task.profile.matrices[4]
    weight = task.model.get_parameter(f"{matrix.module}.weight")
    diagonal = torch.zeros_like(weight, dtype=torch.float64)
    for batch in task.batches:
        for row in task.model(**batch.inputs).logits.log_softmax(-1):
            for log_p in row:
                [gradient] = torch.autograd.grad(log_p, weight, retain_graph=True)
                diagonal += log_p.exp().item() * gradient.double().square() / 30
    expected = (diagonal * next(task.perturbations(matrix)).double().square()).sum((1, 2)) / 2
    torch.testing.assert_close(result[4].value, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("metric", ["trace", "top-eigenvalue", "gauss-newton-trace", "gauss-newton-eigenvalue"])
def test_curvature_prices_the_squared_error(scored, metric):
    """½ |curvature| ‖ΔW‖², divided by the number of weights for a trace; the table records all curvatures."""
    task, result = scored(metric)
    assert [c.module for c in task.curvature] == [m.module for m in task.profile.matrices]
    for index, estimate in result.items():
        curvature = task.curvature[index]
        matrix = task.profile.matrices[index]
        share = curvature.value / (matrix.elements if "trace" in metric else 1)
        torch.testing.assert_close(estimate.value, 0.5 * abs(share) * task.squared_errors(matrix))
        assert (curvature.products > 0) == ("gauss" not in metric)


def test_true_traces_agree_with_an_independent_estimate(scored, make_task):
    """Traces from products of each matrix's own Hessian, with other random signs: equal within the noise."""
    from qbert_opt.curvature.hessian import HessianOperator
    from qbert_opt.curvature.hutchinson import trace_draw
    from qbert_opt.curvature.losses import LabelledLoss

    task, _ = scored("trace")
    for index in (4, 5):
        parameter = task.model.get_parameter(f"{task.profile.matrices[index].module}.weight")
        operator = HessianOperator(LabelledLoss(task.model, task.head, task.targets), [parameter], task.batches)
        draws = np.array([trace_draw(operator, [parameter.numel()], (7, d)) for d in range(40)])
        noise = (draws.var(ddof=1) / 40 + task.curvature[index].std_error ** 2) ** 0.5
        assert abs(draws.mean() - task.curvature[index].value) < 4 * noise


def test_the_top_eigenvalue_bounds_the_trace_per_weight(scored):
    """λ of the Gauss-Newton matrix lies between its mean and its sum of eigenvalues."""
    traces, eigenvalues = (scored(name)[0].curvature for name in ("gauss-newton-trace", "gauss-newton-eigenvalue"))
    for matrix, trace, eigenvalue in zip(
        scored("gauss-newton-trace")[0].profile.matrices, traces, eigenvalues, strict=True
    ):
        assert trace.value / matrix.elements < eigenvalue.value < trace.value * (1 + 1e-6)


def test_omega_per_matrix_is_that_of_its_eigenvalues(scored):
    """|mean| + standard deviation of ten eigenvalues."""
    task, _ = scored("qbert-matrix")
    for curvature in task.curvature:
        values = np.array(curvature.eigenvalues)
        assert len(values) == 10
        assert curvature.value == pytest.approx(abs(values.mean()) + values.std())


def test_negative_curvature_is_recorded_with_a_warning(make_task):
    """The table keeps the sign and a warning names the matrix; the score uses the magnitude, so errors gain nothing."""
    task = make_task()
    result = {
        i: MatrixCurvature(module=m.module, quantity="top eigenvalue", value=-3.0 if i == 4 else 2.0, std_error=0.1)
        for i, m in enumerate(task.profile.matrices)
    }
    scores = dict(priced_by(task, [4], result))
    torch.testing.assert_close(scores[4].value, 1.5 * task.squared_errors(task.profile.matrices[4]))
    assert task.curvature[4].value == -3.0
    [warning] = task.warnings
    assert "at 1 of 6 matrices" in warning and task.profile.matrices[4].module in warning


def test_too_small_a_limit_is_rejected_with_a_sufficient_one(make_task):
    """The message names the matrix and a sufficient limit; with that limit it works."""
    import re

    from qbert_opt.errors import UsageError

    for metric in ("directional", "trace", "differentiable"):
        plugin = plugins.load("metrics", metric)
        small = r"`memory_limit_bytes` 0MiB: .* alone needs .* Give at least \d+MiB"
        with pytest.raises(UsageError, match=small) as caught:
            list(plugin.score(make_task(20_000), SOME))
        enough = int(re.search(r"at least (\d+)MiB", str(caught.value)).group(1))
        assert len(list(plugin.score(make_task(enough << 20), SOME))) == 3


def test_parts_of_samples_are_the_samples(make_task):
    """A matrix too large for one pass is processed in parts that contain the same samples, in any order."""
    from qbert_opt.scoring.matrix_factors import factor_parts

    task = make_task(150_000)
    module = task.profile.matrices[4].module
    whole = factor_pass(task.model, task.batches, [module])[module]
    [(index, parts)] = factor_parts(task, [4], EXACT)
    assert index == 4 and len(parts) > 1
    samples = [sample for part in parts for sample in part()]
    left, right = (sorted(s.jacobian().norm().item() for s in result) for result in (whole, samples))
    np.testing.assert_allclose(left, right, rtol=1e-5)


def test_folds_of_parts_are_those_of_the_whole(make_task):
    """The fold of a text does not depend on memory."""
    plugin = plugins.load("metrics", "directional")
    result = {limit: dict(plugin.score(make_task(limit), [4])) for limit in (150_000, 1 << 30)}
    little, enough = (result[limit][4] for limit in result)
    assert len(enough.folds) == len(enough.sharp_folds) == 8
    torch.testing.assert_close(little.folds, enough.folds, rtol=1e-4, atol=0)
    torch.testing.assert_close(little.sharp_folds, enough.sharp_folds, rtol=1e-4, atol=0)


def test_metrics_of_the_training_loss_need_labels(make_task):
    """Metrics of the training loss need labels."""
    with pytest.raises(ValueError, match="needs labels"):
        list(plugins.load("metrics", "trace").score(dataclasses.replace(make_task(), targets=None), SOME))
