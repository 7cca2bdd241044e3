"""Round to nearest in the range of each group with the least squared error (range search, no data needed)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...spec.choices import Layout
from ..quantized_matrix import QuantizedMatrix, grouped, round_to_range
from ..ranges import search_range
from . import rtn

NEEDS_GRAM = False
GRADIENT_SHARE = 0.0
FORMS = rtn.FORMS


def quantize(
    weight: torch.Tensor, layouts: Sequence[Layout], gram: torch.Tensor | None = None
) -> list[QuantizedMatrix]:
    """Quantize one matrix under each layout; no group has a larger squared error than with its min-max range.

    Args:
        weight: float32 `[rows, columns]`.
        layouts: what to produce.
        gram: ignored.
    """
    even = torch.ones(weight.shape[1])
    found = []
    for layout in layouts:
        searched = round_to_range(weight, layout, *search_range(weight, layout, even))
        [plain] = rtn.quantize(weight, [layout])
        # a range placed on a sample of a large group may be worse on the whole group
        worse = _group_errors(searched, weight) > _group_errors(plain, weight)
        if worse.any():
            shape = searched.scale.shape
            scale = torch.where(worse.reshape(shape), plain.scale, searched.scale)
            offset = torch.where(worse.reshape(shape), plain.offset, searched.offset)
            searched = round_to_range(weight, layout, scale.reshape(-1), offset.reshape(-1))
        found.append(searched)
    return found


def _group_errors(quantized: QuantizedMatrix, weight: torch.Tensor) -> torch.Tensor:
    return grouped(quantized.dequantize() - weight, quantized.layout).double().square_().sum(1)
