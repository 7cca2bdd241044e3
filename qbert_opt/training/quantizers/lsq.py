"""Learned step size and offset: `weight = scale * clamp(round((latent - offset) / scale)) + offset`.

LSQ (Esser et al. 2020) with LSQ+'s offset (Bhalgat et al. 2020); gradients are straight-through, see `level_rounding`.
A weight counts as clamped when its rounded value is, so weights in the outer half of the end cells still learn. Scales
and offsets are rounded to fp16 in the forward pass: what is trained is what will be stored. LSQ's factor on the
gradient of a scale is omitted, since Adam cancels it.
"""

from __future__ import annotations

import torch
from torch import nn

from ...quantization.quantized_matrix import (
    SMALLEST_SCALE,
    QuantizedMatrix,
    fixed_offset,
    group_shape,
    grouped,
    nearest_codes,
    top_code,
    zero_point_offset,
)
from ..level_rounding import levels
from ..straight_through import straight_through, to_half

FORMS = ("offset", "symmetric", "signed", "zero-point", "ternary")
JUST_UNDER_HALF = 0.49  # of a step, so that float rounding errors cannot move a latent weight out of its cell


class LearnedRanges(nn.Module):
    """One matrix in training.

    Attributes:
        layout: the groups and the form of their ranges.
        shape: rows and columns.
        latent: float32 `[groups, elements]`, the weights that are rounded.
        ranges: float32 `[groups, 1]` each, by name: `scale`, and `offset` or `zero` depending on the form.
    """

    def __init__(self, weight: torch.Tensor, start: QuantizedMatrix) -> None:
        """Start from a quantizer's result, with latent weights inside the cells of its codes.

        Args:
            weight: float32 `[rows, columns]`, before quantization; its difference from the stored weights, clamped to
                under half a step, is kept in the latent weights.
            start: the quantizer's codes and ranges.

        Raises:
            RuntimeError: rounding the latent weights does not reproduce the codes.
        """
        super().__init__()
        self.layout, self.shape = start.layout, tuple(start.codes.shape)
        scale = start.scale.float().reshape(-1, 1)
        stored = start.dequantize()
        half = JUST_UNDER_HALF * scale
        remainder = grouped(weight.detach().float() - stored, self.layout).clamp(-half, half)
        cells = grouped(stored, self.layout)
        self.latent = nn.Parameter(cells + remainder)
        self.ranges = nn.ParameterDict({"scale": nn.Parameter(scale)})
        if self.layout.form == "offset":
            self.ranges["offset"] = nn.Parameter(start.offset.float().reshape(-1, 1))
        elif self.layout.form == "zero-point":
            self.ranges["zero"] = nn.Parameter(start.zero.float().reshape(-1, 1))
        with torch.no_grad():
            moved = grouped(self() != stored, self.layout)
            self.latent[moved] = cells[moved]  # steps too small relative to the offset for float32 to halve
            if not torch.equal(self(), stored):
                raise RuntimeError(f"latent weights in {self.layout} do not round to their codes")

    def forward(self) -> torch.Tensor:
        """Return the stored weights, float32 `[rows, columns]`."""
        scale, offset = self._ranges()
        return levels(self.latent, scale, offset, top_code(self.layout)).reshape(self.shape)

    @torch.no_grad()
    def stored(self) -> QuantizedMatrix:
        """Return the matrix to store; its `dequantize` equals `forward`, bit for bit."""
        codes, scale, offset = self._parts()
        shape = group_shape(self.layout, *self.shape)
        stores_offset = self.layout.form == "offset"
        return QuantizedMatrix(
            self.layout,
            codes.to(torch.uint8).reshape(self.shape),
            scale.half().reshape(shape),
            (offset.half() if stores_offset else offset).reshape(shape).clone(),
        )

    @torch.no_grad()
    def centre(self) -> None:
        """Move latent weights to their stored values."""
        self.latent.copy_(self().reshape(self.latent.shape))

    @torch.no_grad()
    def _parts(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Codes `[groups, elements]` as floats, scale and offset `[groups, 1]`, all as stored."""
        scale, offset = self._ranges()
        return nearest_codes(self.latent, scale, offset, top_code(self.layout) + 1), scale, offset

    def _ranges(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and offset `[groups, 1]` as stored, in the graph."""
        scale = straight_through(self.ranges["scale"].clamp_min(SMALLEST_SCALE), to_half)
        if self.layout.form == "offset":
            offset = straight_through(self.ranges["offset"], to_half)
        elif self.layout.fixed_zero is not None:
            offset = fixed_offset(scale, self.layout)
        else:
            zero = straight_through(self.ranges["zero"], torch.round).clamp(0, top_code(self.layout))
            offset = zero_point_offset(scale, zero)
        return scale, offset


def trained(weight: torch.Tensor, start: QuantizedMatrix) -> LearnedRanges:
    """Return the trainable form of a matrix."""
    return LearnedRanges(weight, start)
