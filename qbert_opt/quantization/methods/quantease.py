"""GPTQ, then alternating improvement of codes (coordinate descent: QuantEase, 2023) and ranges (least squares)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...spec.choices import Layout
from ...spec.forms import FORMS
from ..descent import descend_codes, refit_ranges
from ..quantized_matrix import QuantizedMatrix
from . import gptq

__all__ = ["FORMS", "GRADIENT_SHARE", "NEEDS_GRAM", "quantize"]

NEEDS_GRAM = True
GRADIENT_SHARE = 0.0
ROUNDS = 3  # each lowers the error; a fourth gains less than a percent
WIDEST = 4  # bits; with more, compensated rounding leaves nothing to gain


def quantize(
    weight: torch.Tensor, layouts: Sequence[Layout], gram: torch.Tensor | None = None
) -> list[QuantizedMatrix]:
    """Quantize one matrix under each layout so that `tr(ΔW · gram · ΔWᵀ)` is small, never above that of gptq.

    Args:
        weight: float32 `[rows, columns]`.
        layouts: what to produce.
        gram: float32 `[columns, columns]`, mean over real tokens of `x xᵀ` for inputs x.

    Raises:
        ValueError: `gram` is missing or has the wrong shape.
    """
    damped = gptq.damped("quantease", weight, gram)
    order, hessian = gptq.by_energy(damped), damped.float()
    found = gptq.quantize(weight, layouts, gram)
    narrow = [i for i, layout in enumerate(layouts) if layout.bits <= WIDEST]
    for chunk in gptq.chunks(weight, narrow):
        improved = [found[i] for i in chunk]
        for _ in range(ROUNDS):
            improved = [refit_ranges(weight, each, hessian) for each in improved]
            improved = descend_codes(weight, improved, hessian, order)
        for i, each in zip(chunk, improved, strict=True):
            found[i] = refit_ranges(weight, each, hessian)
    return found
