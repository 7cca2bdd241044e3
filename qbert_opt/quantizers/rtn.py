"""Round to nearest in the range of each group (Q-BERT's asymmetric uniform quantizer, equation 1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..choices import Layout
from ._matrix import QuantizedMatrix, group_shape, grouped, nearest_codes, stored_range

NEEDS_GRAM = False


def quantize(
    weight: torch.Tensor, layouts: Sequence[Layout], gram: torch.Tensor | None = None
) -> list[QuantizedMatrix]:
    """Quantize one matrix under each layout, ranges from the smallest to the largest value of each group.

    Args:
        weight: float32 `[rows, columns]`.
        layouts: what to produce.
        gram: ignored.
    """
    return [_quantize(weight, layout) for layout in layouts]


def _quantize(weight: torch.Tensor, layout: Layout) -> QuantizedMatrix:
    groups = grouped(weight, layout)
    low, high = groups.aminmax(dim=1)
    scale, offset = stored_range(low, high, layout)
    levels = 2**layout.bits - (1 if layout.symmetric else 0)
    codes = nearest_codes(groups, scale.float()[:, None], offset.float()[:, None], levels)
    shape = group_shape(layout, *weight.shape)
    return QuantizedMatrix(
        layout, codes.reshape(weight.shape).to(torch.uint8), scale.reshape(shape), offset.reshape(shape)
    )
