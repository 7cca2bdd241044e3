"""A quantized matrix as it is stored: codes, fp16 scales, fp16 offsets."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..choices import Layout

SMALLEST_SCALE = 2.0**-24  # smallest fp16 above zero: a constant group stays representable


@dataclass(frozen=True, slots=True)
class QuantizedMatrix:
    """Codes and ranges of one matrix; `weight ≈ scale * code + offset` (Q-BERT's asymmetric form).

    Attributes:
        layout: how groups lie over the matrix.
        codes: uint8 `[rows, columns]`, each below `2**bits`.
        scale: float16 `[num_groups]` for row groups, `[rows, columns / group_size]` for column groups.
        offset: float16, shaped as `scale`; the value of code 0. When symmetric it is derived, not stored, and float32:
            rounded to fp16 it would move zero.
    """

    layout: Layout
    codes: torch.Tensor
    scale: torch.Tensor
    offset: torch.Tensor

    def dequantize(self) -> torch.Tensor:
        """Return float32 `[rows, columns]`: the weights that the codes stand for."""
        rows, columns = self.codes.shape
        scale = expand(self.scale.float(), self.layout, rows, columns)
        offset = expand(self.offset.float(), self.layout, rows, columns)
        return self.codes.float() * scale + offset


def grouped(matrix: torch.Tensor, layout: Layout) -> torch.Tensor:
    """View `[rows, columns]` as `[groups, elements of a group]`."""
    if layout.axis == "columns":
        return matrix.reshape(-1, layout.group_size)
    return matrix.reshape(layout.num_groups, -1)


def group_shape(layout: Layout, rows: int, columns: int) -> tuple[int, ...]:
    """Shape of the stored scales."""
    return (rows, columns // layout.group_size) if layout.axis == "columns" else (layout.num_groups,)


def expand(per_group: torch.Tensor, layout: Layout, rows: int, columns: int) -> torch.Tensor:
    """Spread per-group values to something that broadcasts over `[rows, columns]`."""
    if layout.axis == "columns":
        return per_group.reshape(rows, -1).repeat_interleave(layout.group_size, dim=1)
    return per_group.reshape(-1).repeat_interleave(layout.group_size).reshape(rows, 1)


def stored_range(low: torch.Tensor, high: torch.Tensor, layout: Layout) -> tuple[torch.Tensor, torch.Tensor]:
    """Round a range `[low, high]` per group to the fp16 scale and offset that will be stored.

    Symmetric ranges use the odd number of levels `-(2**(b-1)-1) … 2**(b-1)-1`, so that zero stays zero.

    Returns:
        scale (float16) and offset (float16; float32 when symmetric), shaped as `low`.
    """
    if layout.symmetric:
        half = 2 ** (layout.bits - 1) - 1
        scale = (torch.maximum(low.abs(), high.abs()) / half).clamp_min(SMALLEST_SCALE).half()
        return scale, symmetric_offset(scale, layout)
    scale = ((high - low) / (2**layout.bits - 1)).clamp_min(SMALLEST_SCALE).half()
    return scale, low.half()


def symmetric_offset(scale: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Value of code 0 in a symmetric range, float32: exactly as far below zero as the middle code is above it."""
    return -(2 ** (layout.bits - 1) - 1) * scale.float()


def nearest_codes(values: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor, levels: int) -> torch.Tensor:
    """Return the float codes `0 … levels - 1` whose stored value is nearest; shapes broadcast."""
    return ((values - offset) / scale).round_().clamp_(0, levels - 1)
