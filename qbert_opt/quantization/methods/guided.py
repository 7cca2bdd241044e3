"""Quantease with tokens weighted by their influence on the model's output (GuidedQuant, 2025)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...spec.choices import Layout
from ...spec.forms import FORMS
from ..quantized_matrix import QuantizedMatrix
from . import quantease

__all__ = ["FORMS", "GRADIENT_SHARE", "NEEDS_GRAM", "quantize"]

NEEDS_GRAM = True
GRADIENT_SHARE = (
    0.5  # of the gradient-weighted second moments in the gram; `benchmarks/quantizers/quantizers.py` tries others
)


def quantize(
    weight: torch.Tensor, layouts: Sequence[Layout], gram: torch.Tensor | None = None
) -> list[QuantizedMatrix]:
    """Quantize one matrix under each layout as quantease does; only the gram differs.

    Args:
        weight: float32 `[rows, columns]`.
        layouts: what to produce.
        gram: float32 `[columns, columns]`, second moments of the inputs, half of them weighted by squared gradients.

    Raises:
        ValueError: `gram` is missing or has the wrong shape.
    """
    return quantease.quantize(weight, layouts, gram)
