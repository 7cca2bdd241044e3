"""Rounded inputs: levels and ranges by hand, scores against dense gradients and measured KL."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qbert_opt.curvature.columns import FactorPlan, output_factors
from qbert_opt.errors import InputFileError, UsageError
from qbert_opt.evaluation.evaluate import kl_divergence
from qbert_opt.models.batches import logits, tokenize
from qbert_opt.models.structure import profile_model
from qbert_opt.quantization.activation_quant import round_activations, with_rounded_inputs
from qbert_opt.quantization.activation_ranges import MOMENTUM, calibrated_ranges, rounding_errors, shared_inputs
from qbert_opt.quantization.calibration import BATCH_SIZE
from qbert_opt.runtime.memory_budget import MemoryShares
from qbert_opt.scoring.activation_scores import activation_scores
from qbert_opt.scoring.task import ScoringTask
from qbert_opt.spec.activations import ACTIVATION_BITS, activation_choice, activation_grid
from qbert_opt.spec.planned import PlannedActivation

CHOICES = activation_grid((8,))


@pytest.fixture(scope="module")
def batches(tiny, sentences):
    """Texts of many lengths in padded batches."""
    return tokenize(tiny.tokenizer, sentences.texts[:40], batch_size=BATCH_SIZE)


@pytest.fixture(scope="module")
def modules(tiny):
    """The searched matrices."""
    return [m.module for m in profile_model(tiny).matrices]


def scored(tiny, batches, fit, choices, limit=1 << 30, temperature=1.0):
    """Scores of every input."""
    task = ScoringTask(
        model=tiny.model, profile=profile_model(tiny), batches=batches, targets=None,
        perturbations=lambda _: iter(()), shares=MemoryShares(limit), seed=0,
    )  # fmt: skip
    return activation_scores(task, fit, choices, FactorPlan(temperature))


def plan_of(scores, choice):
    """Every input by one choice."""
    j = scores.choices.index(choice)
    found = []
    for i, modules in enumerate(scores.inputs):
        low, high = scores.ranges[i][j] or (None, None)
        c = activation_choice(choice)
        found.append(
            PlannedActivation(
                modules=modules, bits=c.bits, scheme=c.scheme, range=c.range, low=low, high=high,
                predicted_loss=scores.value[i][j], std_error=scores.std_error[i][j],
            )
        )  # fmt: skip
    return found


def test_levels_by_hand():
    """2 bits of -1 to 2: levels -1, 0, 1, 2; what lies outside is clipped; a positive range starts at zero."""
    values = torch.tensor([[-1.4, -0.6, 0.4, 1.6, 2.9]])
    assert round_activations(values, 2, -1.0, 2.0).tolist() == [[-1, -1, 0, 2, 2]]
    assert round_activations(torch.tensor([[1.0, 3.0]]), 2).tolist() == [[1, 3]]
    tokens = torch.tensor([[-1.0, 0.9, 2.0], [0.0, 20.0, 30.0]])
    assert round_activations(tokens, 2).tolist() == [[-1, 1, 2], [0, 20, 30]]  # each token has a range of its own
    assert round_activations(torch.zeros(2, 3), 8).tolist() == [[0, 0, 0]] * 2


def test_16_levels_by_hand():
    """4 bits: -5 to 10 in steps of 1, zero at code 5; per token 15 steps of the token's own length."""
    values = torch.tensor([[-7.0, -4.6, -0.4, 0.6, 9.4, 12.0]])
    assert round_activations(values, 4, -5.0, 10.0).tolist() == [[-5, -5, 0, 1, 9, 10]]
    levels = round_activations(torch.linspace(-6, 11, 1000), 4, -5.0, 10.0).unique()
    assert levels.tolist() == list(range(-5, 11))
    tokens = torch.tensor([[-5.0, 0.7, 10.0], [0.0, 7.0, 30.0], [-2.5, 1.2, 5.0]])  # steps of 1, 2 and 0.5
    assert round_activations(tokens, 4).tolist() == [[-5, 1, 10], [0, 8, 30], [-2.5, 1, 5]]


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.sampled_from([4, 8, 16]), st.floats(1e-3, 1e3))
def test_errors_are_half_a_step_and_rounding_is_stable(seed, bits, spread):
    """Inside its range a value moves by at most half a step; zero stays; a second rounding changes nothing."""
    values = spread * torch.randn(5, 7, generator=torch.Generator().manual_seed(seed))
    values[0, 0] = 0
    ends = torch.stack([values.amin(-1).clamp_max(0), values.amax(-1).clamp_min(0)])
    step = ((ends[1] - ends[0]) / (2**bits - 1))[:, None]
    once = round_activations(values, bits)
    # the zero point is rounded, so an end may move by half a step more
    assert ((once - values).abs() <= 1.01 * step + 1e-6 * spread).all()
    assert once[0, 0] == 0
    low, high = float(values.min()), float(values.max())
    fixed = round_activations(values, bits, low, high)
    torch.testing.assert_close(round_activations(fixed, bits, low, high), fixed, rtol=0, atol=1e-6 * spread)


def test_inputs_are_shared_as_the_model_shares_them(tiny, batches, modules):
    """Query, key and value of a layer read one tensor; the rest read their own."""
    found = shared_inputs(tiny.model, batches[0], modules)
    assert sorted(len(names) for names in found) == [1] * 6 + [3] * 2
    assert {name.rsplit(".", 1)[-1] for name in found[0]} == {"query", "key", "value"}
    assert sorted(name for names in found for name in names) == sorted(modules)


def test_ranges_are_those_of_real_tokens(tiny, sentences, batches, modules):
    """Each method against the same figures from every text alone, without padding."""
    module = modules[-1]
    seen = []
    handle = tiny.model.get_submodule(module).register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    order = [i for batch in batches for i in batch.indices]
    with torch.no_grad():
        for index in order:
            [alone] = tokenize(tiny.tokenizer, [sentences.texts[index]], batch_size=1)
            tiny.model(**alone.inputs)
    handle.remove()
    values = torch.cat([text.flatten() for text in seen])
    found = calibrated_ranges(tiny.model, batches, modules)[module]
    near = partial(pytest.approx, rel=1e-4)
    assert found["minmax"](8) == near((float(values.min()), float(values.max())))
    low, high = float(seen[0].min()), float(seen[0].max())
    for text in seen[1:]:
        low, high = (MOMENTUM * a + (1 - MOMENTUM) * float(b) for a, b in ((low, text.min()), (high, text.max())))
    assert found["average"](8) == near((low, high))
    ends = torch.quantile(values, torch.tensor([0.5e-4, 1 - 0.5e-4]), interpolation="nearest").tolist()
    assert found["percentile"](8) == pytest.approx(ends, rel=0.02)

    def error(ends):
        return float((round_activations(values, 3, *ends) - values).square().sum())

    best = found["mse"](3)
    assert error(best) <= min(error(found[name](3)) for name in ("minmax", "average", "percentile")) * 1.001
    assert error(best) < 0.95 * error(found["minmax"](3))


def test_non_finite_inputs_are_named(tiny, batches, modules):
    """The module whose input overflows is named."""
    broken = copy.deepcopy(tiny.model)
    with torch.no_grad():
        broken.get_submodule(modules[4]).bias.fill_(float("inf"))
    with pytest.raises(InputFileError, match=r"holds NaN or infinite values on the calibration text"):
        calibrated_ranges(broken, batches, modules)


def test_the_score_is_the_dense_one(tiny, sentences, batches, modules):
    """½ Σ_f (∂f/∂a · Δa)² with the gradient of the very tensor that all its readers see, one text at a time."""
    texts = [0, 7, 31]
    few = tokenize(tiny.tokenizer, [sentences.texts[i] for i in texts], batch_size=3)
    scores = scored(tiny, few, batches, CHOICES)
    for i in (0, 1, len(scores.inputs) - 1):
        names = scores.inputs[i]
        losses = torch.zeros(len(CHOICES), dtype=torch.float64)
        for index in texts:
            [alone] = tokenize(tiny.tokenizer, [sentences.texts[index]], batch_size=1)
            seen = {}

            def add(_module, args, seen=seen):
                seen.setdefault("input", args[0].detach())
                seen.setdefault("change", torch.zeros_like(args[0], requires_grad=True))
                return (args[0] + seen["change"],)

            handles = [tiny.model.get_submodule(name).register_forward_pre_hook(add) for name in names]
            outputs = tiny.model(**alone.inputs).logits
            for handle in handles:
                handle.remove()
            errors = rounding_errors(seen["input"], CHOICES, scores.ranges[i]).double()
            factors = output_factors(outputs)
            for f in range(factors.shape[-1]):
                [dense] = torch.autograd.grad((factors[:, :, f] * outputs).sum(), seen["change"], retain_graph=True)
                losses += (errors * dense.double()).flatten(1).sum(1).square() / 2
        torch.testing.assert_close(
            torch.tensor(scores.value[i], dtype=torch.float64), losses / 3, rtol=5e-3, atol=1e-14
        )


def test_what_is_predicted_is_measured(tiny, batches):
    """At temperature 1 the score of an input is the KL that rounding it alone really costs, and their sum that of all.

    Rounding errors of different inputs have no common sign, so even all of them together add up.
    """
    scores = scored(tiny, batches, batches, CHOICES)
    model = copy.deepcopy(tiny.model).double()
    reference = logits(model, batches)
    for choice in ("8bit/token", "8bit/tensor/minmax"):
        planned = plan_of(scores, choice)
        ratios = []
        for item in planned:
            rounded = with_rounded_inputs(copy.deepcopy(model), [item])
            ratios.append(float(kl_divergence(reference, logits(rounded, batches)).mean()) / item.predicted_loss)
        assert np.median(ratios) == pytest.approx(1, abs=0.1)
        whole = with_rounded_inputs(copy.deepcopy(model), planned)
        measured = float(kl_divergence(reference, logits(whole, batches)).mean())
        assert 0.4 < measured / sum(item.predicted_loss for item in planned) < 2.5


def test_wider_inputs_cost_less_and_memory_is_bounded(tiny, batches, modules):
    """16 bits cost a thousandth of 8; a small limit gives the same scores in more passes, a tiny one is refused."""
    grid = activation_grid((8, 16))
    scores = scored(tiny, batches, batches, grid, temperature=2.0)
    values = np.array(scores.value)
    eight, sixteen = (scores.choices.index(f"{bits}bit/token") for bits in (8, 16))
    assert (values[:, sixteen] < 1e-3 * values[:, eight]).all()
    small = scored(tiny, batches, batches, grid, limit=600_000, temperature=2.0)
    np.testing.assert_allclose(np.array(small.value), values, rtol=1e-3, atol=1e-15)
    with pytest.raises(UsageError, match=r"`memory_limit_bytes` .* one sample's factors of all matrices"):
        scored(tiny, batches, batches, grid, limit=10_000)


def test_names_read_back():
    """Every choice's name reads back; others are refused."""
    for choice in activation_grid(ACTIVATION_BITS):
        assert activation_choice(choice.name) == choice
    with pytest.raises(UsageError, match=r"'2bit/token': legal: 4bit/token, 4bit/tensor/minmax"):
        activation_choice("2bit/token")
