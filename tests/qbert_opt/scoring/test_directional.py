"""The default metric against the truth: measured KL, dense Hessians, and its own standard error."""

import copy
from itertools import cycle

import numpy as np
import pytest
import torch

from qbert_opt.curvature.columns import FactorPlan, drawn_factors, output_factors, sharpening
from qbert_opt.curvature.factors import SampleFactors, factor_pass
from qbert_opt.evaluation.evaluate import kl_divergence
from qbert_opt.models.batches import TokenBatch, logits, tokenize
from qbert_opt.models.structure import profile_model
from qbert_opt.quantization.calibration import CalibrationPlan, MatrixQuantizer, calibration_texts
from qbert_opt.scoring.metrics import directional
from qbert_opt.scoring.metrics.directional import both_losses, quadratic_forms
from qbert_opt.scoring.task import Estimate
from qbert_opt.spec.grids import default_grid, grid


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_output_factors_rebuild_the_softmax_hessian(classes):
    """B Bᵀ = diag(p) - p pᵀ, with one column fewer than classes."""
    outputs = torch.randn(5, classes, generator=torch.Generator().manual_seed(0))
    factors = output_factors(outputs).double()
    p = outputs.double().softmax(-1)
    assert factors.shape == (5, classes, classes - 1)
    torch.testing.assert_close(
        factors @ factors.transpose(1, 2), torch.diag_embed(p) - p[:, :, None] * p[:, None, :], atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("confidence", [1, 8])
def test_softened_factors_combine_to_those_of_kl(classes, confidence):
    """B₂ A = B₁, also where a model is confident."""
    outputs = confidence * torch.randn(20, classes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    softened, sharp = (output_factors(outputs, t) for t in (2.0, 1.0))
    rebuilt = softened @ sharpening(outputs, 2.0).double()
    torch.testing.assert_close(rebuilt @ rebuilt.mT, sharp @ sharp.mT, atol=1e-6, rtol=1e-4)


def test_one_pass_gives_the_loss_at_both_temperatures(tiny, sentences):
    """Softened factors give the same KL as factors at temperature 1, sample by sample."""
    batches = tokenize(tiny.tokenizer, sentences.texts[:20], batch_size=8)
    matrix = profile_model(tiny).matrices[3]
    errors = torch.randn(4, matrix.rows, matrix.columns, generator=torch.Generator().manual_seed(0))
    passes = {t: factor_pass(tiny.model, batches, [matrix.module], FactorPlan(t))[matrix.module] for t in (1.0, 2.0)}
    softened, sharp = both_losses(passes[2.0], errors)
    [alone] = both_losses(passes[1.0], errors)
    torch.testing.assert_close(sharp, alone, rtol=1e-3, atol=1e-6 * float(alone.max()))
    assert (softened - alone).abs().max() > 0.1 * alone.max()


@pytest.mark.parametrize("classes", [3, 7, 40])
@pytest.mark.parametrize("confidence", [1, 8, 1000])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_one_drawn_column_is_an_unbiased_estimate(classes, confidence, temperature):
    """Over many draws, its square is the output Hessian at both temperatures; a certain prediction has none."""
    outputs = confidence * torch.randn(1, classes, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    many = torch.arange(2_000)  # even draws: their mean is off by less than a 500th of the trace
    column, worth = drawn_factors(outputs.expand(len(many), -1), temperature, many, seed=3)
    for weight, at in ((torch.ones(len(many)), temperature), (worth, 1.0)):
        exact = output_factors(outputs, at)[0]
        drawn = (column * weight[:, None]).T @ column / len(many)
        torch.testing.assert_close(drawn, exact @ exact.T, rtol=0, atol=5e-3 * float(exact.square().sum()) + 1e-9)


def test_scores_with_a_drawn_column_are_unbiased(tiny, sentences):
    """Over seeds their mean is the exact score, at both temperatures; a sample draws the same alone and in a batch."""
    together = tokenize(tiny.tokenizer, sentences.texts[:32], batch_size=16)
    matrix = profile_model(tiny).matrices[3]
    errors = torch.randn(2, matrix.rows, matrix.columns, generator=torch.Generator().manual_seed(0))
    exact = both_losses(factor_pass(tiny.model, together, [matrix.module], FactorPlan(2.0))[matrix.module], errors)

    def drawn(seed, batches=together, carrying=()):
        samples = factor_pass(tiny.model, batches, [matrix.module], FactorPlan(2.0, frozenset(carrying), seed=seed))
        assert [len(sample.gradients) for sample in samples[matrix.module]] == [1 + (i in carrying) for i in range(32)]
        return both_losses(samples[matrix.module], errors)

    runs = [drawn(seed) for seed in range(40)]
    for kind, truth in enumerate(exact):
        means = torch.stack([run[kind].mean(0) for run in runs])
        off = (means.mean(0) - truth.mean(0)) / (means.std(0) / len(runs) ** 0.5)
        assert off.abs().max() < 4, off
        assert means.std(0).max() < 0.5 * truth.mean(0).max()  # 32 texts already average most of it out
    mixed = drawn(0, carrying=(3, 20))
    for kind, truth in enumerate(exact):
        torch.testing.assert_close(mixed[kind][[3, 20]], truth[[3, 20]], rtol=1e-3, atol=1e-6 * float(truth.max()))
        rest = [i for i in range(32) if i not in (3, 20)]
        torch.testing.assert_close(mixed[kind][rest], runs[0][kind][rest], rtol=1e-3, atol=1e-6 * float(truth.max()))
    alone = drawn(0, [piece for batch in together for piece in batch.split(1)])
    torch.testing.assert_close(alone[0], runs[0][0], rtol=1e-3, atol=1e-6 * float(runs[0][0].max()))


def test_folds_are_equal_parts_of_the_samples():
    """Their mean is the value; too few samples have no folds; one dominant text has an effective sample size of one."""
    losses = torch.rand(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = Estimate.over(losses)
    assert result.folds.shape == (8, 3) and result.sharp_folds.shape == (0, 0)
    torch.testing.assert_close(result.folds.mean(0), result.value)
    torch.testing.assert_close(result.folds[5], losses[5::8].mean(0))
    assert len(Estimate.over(losses[:15]).folds) == 0
    assert 40 < result.effective_samples < 64
    assert Estimate.over(torch.eye(64, dtype=torch.float64)[:, :3]).effective_samples == pytest.approx(1)
    assert Estimate.over(torch.ones(64, 3, dtype=torch.float64)).effective_samples == pytest.approx(64)


def double_model(loaded):
    """A float64 copy: KL of small perturbations drowns in float32 rounding."""
    return copy.deepcopy(loaded.model).double()


def test_score_is_the_second_order_of_measured_kl(tiny, sentences):
    """For a small ΔW in any matrix, measured KL over Ω(ΔW) is 1."""
    model = double_model(tiny)
    batches = tokenize(tiny.tokenizer, sentences.texts[:24], batch_size=8)
    reference = logits(model, batches)
    profile = profile_model(tiny)
    factors = factor_pass(model, batches, [m.module for m in profile.matrices])
    generator = torch.Generator().manual_seed(1)
    for matrix in profile.matrices:
        weight = model.get_submodule(matrix.module).weight
        change = 1e-4 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        predicted = quadratic_forms(factors[matrix.module], change[None]).value.item()
        with torch.no_grad():
            weight += change
            measured = kl_divergence(reference, logits(model, batches)).mean().item()
            weight -= change
        assert measured / predicted == pytest.approx(1, abs=0.02), matrix.module


def test_padding_does_not_change_a_score(tiny, sentences):
    """A sample scores the same alone and padded beside a longer one."""
    profile = profile_model(tiny)
    module = profile.matrices[4].module
    together = tokenize(tiny.tokenizer, sentences.texts[:12], batch_size=12)
    alone = [
        TokenBatch({k: v[i : i + 1, : int(b.mask[i].sum())] for k, v in b.inputs.items()}, (index,))
        for b in together
        for i, index in enumerate(b.indices)
    ]
    change = torch.randn(
        1, profile.matrices[4].rows, profile.matrices[4].columns, generator=torch.Generator().manual_seed(0)
    )
    values = [quadratic_forms(factor_pass(tiny.model, b, [module])[module], change).value for b in (together, alone)]
    torch.testing.assert_close(values[0], values[1], rtol=1e-4, atol=0)


def test_standard_error_is_the_spread_of_the_estimate(tiny, sentences):
    """Over random subsets, the mean squared error of the score is its mean squared standard error within a factor 2."""
    profile = profile_model(tiny)
    matrix = profile.matrices[5]
    errors = MatrixQuantizer(tiny, profile, "rtn", None).errors(matrix, grid((2, 3), ("rows:1", "columns:32"), "rtn"))
    batches = tokenize(tiny.tokenizer, sentences.texts, batch_size=16)
    samples = factor_pass(tiny.model, batches, [matrix.module])[matrix.module]
    truth = quadratic_forms(samples, errors).value
    generator = np.random.default_rng(0)
    size = 15
    estimates = [
        quadratic_forms([samples[i] for i in generator.choice(120, size, replace=False)], errors) for _ in range(100)
    ]
    result = torch.stack([(e.value - truth).square() for e in estimates]).mean(0) / (1 - size / 120)
    stated = torch.stack([e.std_error.square() for e in estimates]).mean(0)
    assert ((result / stated > 0.5) & (result / stated < 2)).all(), result / stated


@pytest.mark.parametrize("buffer_bytes", [1, 3000, 20_000, 1 << 27])
@pytest.mark.parametrize("factors", [(1,), (3,), (2, 1, 70)])
def test_losses_are_those_of_dense_gradients(monkeypatch, factors, buffer_bytes):
    """For any length and number of factors, tokens and texts without a gradient, bands that do not divide the rows."""
    monkeypatch.setattr(directional, "BAND_WEIGHTS", 5 * 9)
    generator = torch.Generator().manual_seed(sum(factors))
    errors = torch.randn(6, 13, 9, generator=generator)
    samples = [
        SampleFactors(n, torch.randn(t, 9, generator=generator), torch.randn(count, t, 13, generator=generator))
        for n, (t, count) in enumerate(zip([4, 1, 7, 7, 2, 3, 30], cycle(factors), strict=False))
    ]
    samples[2].gradients[:, [1, 5]] = 0
    samples[3].gradients[:, 1:] = 0  # as in the last layer of a model that reads the first token
    samples[4].gradients[:] = 0
    samples[5].gradients[..., 0] = 0  # all tokens have a gradient, none at the first row
    [found] = both_losses(samples, errors, buffer_bytes)
    for sample, losses in zip(samples, found, strict=True):
        dense = torch.einsum("ftr,tc->frc", sample.gradients.double(), sample.inputs.double())
        expected = torch.einsum("frc,krc->fk", dense, errors.double()).square().sum(0) / 2
        torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-4 * float(expected.max()))
    assert (found[4] == 0).all()


def test_copies_of_factors_fit_into_memory():
    """Groups are as large as memory allows, one after the other; a factor that needs more is not copied."""
    parts = [(torch.ones(t, 4), torch.ones(t, 6)) for t in (1, 2, 2, 3, 50)]
    stacks = list(directional._stacked(range(5), parts, 2, 40 * 6))
    assert [[list(group[0]) for group in ready] for ready in stacks] == [[[0, 1]], [[2, 3]], [[4]]]
    for ready in stacks[:2]:
        assert sum(4 * (inputs.numel() + gradients.numel()) for _, inputs, gradients in ready) <= 40 * 6
    assert stacks[2][0][1].data_ptr() == parts[4][0].data_ptr()


def test_gptq_loses_less_than_rounding(tiny, sentences):
    """On its own statistics, error compensation has less output error than plain rounding, summed over choices."""
    profile = profile_model(tiny)
    fit, _ = calibration_texts(sentences, CalibrationPlan(60, 60, 0))
    choices = [c for c in default_grid("gptq") if c.grouping in ("rows:1", "rows:heads", "rows:each", "columns:32")]
    gptq, rtn = (MatrixQuantizer(tiny, profile, method, fit) for method in ("gptq", "rtn"))
    for matrix in profile.matrices:
        gram = gptq._gram(matrix).double()
        compensated, plain = (
            torch.einsum("cij,jk,cik->c", e, gram, e) for e in (q.errors(matrix, choices).double() for q in (gptq, rtn))
        )
        assert compensated.sum() < 0.8 * plain.sum(), matrix.module
