"""Round to nearest in the range of each group (Q-BERT's asymmetric uniform quantizer, equation 1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...spec.choices import Layout
from ...spec.forms import Form
from ..quantized_matrix import QuantizedMatrix, grouped, round_to_range, stored_range

NEEDS_GRAM = False
GRADIENT_SHARE = 0.0
FORMS: tuple[Form, ...] = ("offset", "symmetric", "signed", "zero-point", "ternary")


def quantize(
    weight: torch.Tensor, layouts: Sequence[Layout], gram: torch.Tensor | None = None
) -> list[QuantizedMatrix]:
    """Quantize one matrix under each layout with the min-max range of each group.

    Args:
        weight: float32 `[rows, columns]`.
        layouts: what to produce.
        gram: ignored.
    """
    found = []
    for layout in layouts:
        groups = grouped(weight, layout)
        low, high = groups.amin(1), groups.amax(1)  # several times as fast as aminmax
        found.append(round_to_range(weight, layout, *stored_range(low, high, layout)))
    return found
