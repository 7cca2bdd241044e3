"""The directional metric for a decoder's cache: ΔW a becomes the rounding error of keys and values.

    Ω = 1/(2N) Σ_n Σ_f (Σ_m Σ_t g_{m,t}ᵀ Δy_t)²

where m runs over the matrices that make keys or values in all layers at once, because one width holds for the whole
cache. The sum over matrices and tokens is inside the square, so that errors of varying signs cancel as they do in use.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch.nn import functional

from ..curvature.columns import FactorPlan
from ..curvature.factors import factor_pass
from ..models.outputs import rows_per_sample
from ..quantization.calibration import weight_of
from ..spec.score_parts import CacheScores
from .activation_scores import pieces
from .task import ScoringTask

CONTAINS = (
    "rounding all keys and values as their matrices make them, before positions are rotated into keys: per token and "
    "head, symmetric, with an fp16 scale"
)
KINDS = ("key", "value")
WIDTHS: tuple[Literal[8, 4], ...] = (8, 4)


def cache_scores(task: ScoringTask, plan: FactorPlan) -> CacheScores | None:
    """Score every width of the cache below 16 bits in one factor pass, in parts that fit into memory.

    Args:
        task: model and scoring texts.
        plan: how the output Hessian is factored; its seed is replaced by the task's.

    Returns:
        The scores; None for a model that does not make all its keys and values in matrices of their own.
    """
    made = [m.module for m in task.profile.matrices if m.kind in KINDS]
    layers = sum(m.kind == "attention_output" for m in task.profile.matrices)
    if not made or len(made) != len(KINDS) * layers:
        return None
    heads = task.profile.key_value_heads or task.profile.heads
    task.note(f"factor pass over the cache of {layers} layers")
    num_samples = sum(len(batch.indices) for batch in task.batches)
    losses = torch.zeros(num_samples, len(WIDTHS), dtype=torch.float64)
    for batch in pieces(task, made, plan):
        factors = factor_pass(task.model, [batch], made, replace(plan, seed=task.seed), task.head)
        # a pass divides by the labelled rows of its own batch; the mean is over those of all texts
        share = rows_per_sample(task.head.kind, [batch]) / rows_per_sample(task.head.kind, task.batches)
        for place, index in enumerate(sorted(batch.indices)):
            products: torch.Tensor | float = 0.0
            for name in made:
                sample = factors[name][place]
                bias = getattr(task.model.get_submodule(name), "bias", None)
                values = functional.linear(sample.inputs, weight_of(task.model, name), bias).detach()
                errors = torch.stack([rounded(values, heads, bits) - values for bits in WIDTHS])
                gradients = torch.as_tensor(sample.gradients)
                products = products + errors.flatten(1).double() @ gradients.flatten(1).double().T  # [widths, F]
            losses[index] = share * torch.as_tensor(products).square().sum(1) / 2
    std_error = losses.std(0) / num_samples**0.5
    return CacheScores(
        bits=WIDTHS, value=tuple(losses.mean(0).tolist()), std_error=tuple(std_error.tolist()), contains=CONTAINS
    )


def rounded(values: torch.Tensor, heads: int, bits: int) -> torch.Tensor:
    """Round keys or values as the cache keeps them.

    Args:
        values: of any number of tokens, float32 [..., heads × head size].
        heads: of keys or values; each has a scale of its own for every token.
        bits: of a code.
    """
    most = 2 ** (bits - 1) - 1
    by_head = values.unflatten(-1, (heads, -1))
    scale = (by_head.abs().amax(-1, keepdim=True) / most).half().float().clamp(min=torch.finfo(torch.float16).tiny)
    found: torch.Tensor = ((by_head / scale).round().clamp(-most, most) * scale).flatten(-2)
    return found
