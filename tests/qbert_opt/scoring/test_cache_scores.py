"""Scores of a decoder's cache: rounding by hand, and what is predicted against what rounding really costs."""

import copy

import pytest
import torch

from qbert_opt.curvature.columns import FactorPlan
from qbert_opt.evaluation.evaluate import kl_divergence
from qbert_opt.models.batches import logits, tokenize
from qbert_opt.models.structure import profile_model
from qbert_opt.quantization.calibration import BATCH_SIZE
from qbert_opt.runtime.memory_budget import MemoryShares
from qbert_opt.scoring.cache_scores import cache_scores, rounded
from qbert_opt.scoring.task import ScoringTask


def test_levels_by_hand():
    """4 bits: seven steps to either side of zero, a scale of its own for each token and head."""
    values = torch.tensor([[7.0, -3.4, 0.5, 14.0, -5.0, 2.9], [0.0, 0.0, 0.0, 0.7, 0.1, -0.36]])
    found = rounded(values, heads=2, bits=4)
    assert found[0].tolist() == [7.0, -3.0, 0.0, 14.0, -4.0, 2.0]
    torch.testing.assert_close(found[1], torch.tensor([0.0, 0.0, 0.0, 0.7, 0.1, -0.4]), rtol=1e-3, atol=1e-6)
    assert ((rounded(values, heads=2, bits=8) - values).abs() <= 14 / 127 / 2 + 1e-2).all()


def test_what_is_predicted_is_measured(tiny, sentences):
    """Keys and values of a small model, rounded where their matrices make them, cost the KL that their score says."""
    batches = tokenize(tiny.tokenizer, sentences.texts[:24], batch_size=BATCH_SIZE)
    profile = profile_model(tiny)
    task = ScoringTask(
        model=tiny.model, profile=profile, batches=batches, targets=None, perturbations=lambda _: iter(()),
        shares=MemoryShares(1 << 30), seed=0,
    )  # fmt: skip
    scores = cache_scores(task, FactorPlan(1.0))
    assert scores.bits == (8, 4) and 0 < scores.value[0] < scores.value[1]
    model = copy.deepcopy(tiny.model).double()
    reference = logits(model, batches)
    for matrix in profile.matrices:
        if matrix.kind in ("key", "value"):
            model.get_submodule(matrix.module).register_forward_hook(
                lambda _module, _args, made: rounded(made.float(), profile.heads, 8).double()
            )
    measured = float(kl_divergence(reference, logits(model, batches)).mean())
    assert measured / scores.value[0] == pytest.approx(1, abs=0.25)


def test_keys_that_are_no_output_of_a_matrix_are_not_scored(tiny):
    """A fused matrix makes the query too, in an order of its own."""
    profile = profile_model(tiny)
    fused = tuple(m for m in profile.matrices if m.kind != "key")
    task = ScoringTask(
        model=tiny.model, profile=profile.model_copy(update={"matrices": fused}), batches=[], targets=None,
        perturbations=lambda _: iter(()), shares=MemoryShares(1 << 30), seed=0,
    )  # fmt: skip
    assert cache_scores(task, FactorPlan(1.0)) is None
