"""The directional metric for rounded inputs: ΔW a becomes W Δa.

    Ω = 1/(2N) Σ_n Σ_f (Σ_t Σ_m g_{m,t}ᵀ W_m Δa_t)²

where m runs over the matrices that read the input. Errors of an input have varying signs, so most of them cancel over
columns and tokens; the formula accounts for that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from ..curvature.columns import FactorPlan
from ..curvature.factors import factor_pass
from ..models.batches import TokenBatch
from ..models.layers import is_linear
from ..models.outputs import rows_per_sample
from ..quantization.activation_ranges import calibrated_ranges, rounding_errors, shared_inputs
from ..quantization.calibration import weight_of
from ..spec.activations import ActivationChoice
from ..spec.score_parts import ActivationScores
from .matrix_factors import factor_bytes
from .task import ScoringTask

CONTAINS = "quantizing one input of the matrices at a time; products inside attention stay in floating point"


def activation_scores(
    task: ScoringTask, fit: Sequence[TokenBatch], choices: Sequence[ActivationChoice], plan: FactorPlan
) -> ActivationScores | None:
    """Score every choice of every input of the searched matrices in one factor pass, in parts that fit in memory.

    Inputs of convolutions stay in floating point.

    Args:
        task: model and scoring texts.
        fit: calibration texts for static ranges, disjoint from the scoring texts.
        choices: to score.
        plan: how the output Hessian is factored; its seed is replaced by the task's.

    Returns:
        Scores of shape [inputs, choices]; None if there is nothing to score.
    """
    modules = [m.module for m in task.profile.matrices if is_linear(task.model.get_submodule(m.module))]
    if not choices or not modules:
        return None
    inputs = shared_inputs(task.model, fit[0], modules)
    task.note(f"ranges of {len(inputs)} inputs")
    static_ranges = calibrated_ranges(task.model, fit, [names[0] for names in inputs], seed=task.seed)
    ranges = [
        [None if c.range is None else static_ranges[names[0]][c.range](c.bits) for c in choices] for names in inputs
    ]
    task.note(f"factor pass over {len(inputs)} inputs")
    num_samples = sum(len(batch.indices) for batch in task.batches)
    losses = torch.zeros(len(inputs), num_samples, len(choices), dtype=torch.float64)
    for batch in pieces(task, modules, plan):
        factors = factor_pass(task.model, [batch], modules, replace(plan, seed=task.seed), task.head)
        # a pass divides by the labelled rows of its own batch, but the mean is over those of all texts
        share = rows_per_sample(task.head.kind, [batch]) / rows_per_sample(task.head.kind, task.batches)
        for i, names in enumerate(inputs):
            weights = [weight_of(task.model, name) for name in names]
            for place, index in enumerate(sorted(batch.indices)):
                samples = [factors[name][place] for name in names]
                reach = sum(s.gradients @ w for s, w in zip(samples, weights, strict=True))  # [F, T, columns]
                errors = rounding_errors(samples[0].inputs, choices, ranges[i])  # [choices, T, columns]
                products = errors.flatten(1) @ torch.as_tensor(reach).flatten(1).T
                losses[i, index] = share * products.double().square().sum(1) / 2
    std_error = torch.stack([task.estimate(of_input).std_error for of_input in losses])
    return ActivationScores(
        inputs=inputs,
        choices=tuple(c.name for c in choices),
        value=tuple(tuple(row) for row in losses.mean(1).tolist()),
        std_error=tuple(tuple(row) for row in std_error.tolist()),
        ranges=tuple(tuple(row) for row in ranges),
        contains=CONTAINS,
    )


def pieces(task: ScoringTask, modules: Sequence[str], plan: FactorPlan) -> Iterator[TokenBatch]:
    """Cut the batches so that the factors of all matrices fit.

    Args:
        task: model and scoring texts.
        modules: the matrices.
        plan: how the output Hessian is factored.

    Raises:
        UsageError: not even those of one sample fit.
    """
    specs = [matrix for matrix in task.profile.matrices if matrix.module in modules]
    for batch in task.batches:
        tokens = batch.mask.shape[1]
        back = tokens * max(plan.count(task.head, index) for index in batch.indices)
        one = sum(factor_bytes(matrix, tokens, back) for matrix in specs)
        task.shares.refuse_less(task.shares.factors, one, "one sample's factors of all matrices")
        yield from batch.split(task.shares.factors // one)
