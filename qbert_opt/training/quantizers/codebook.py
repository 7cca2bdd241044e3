"""Learned codebook: weights round to the nearest entry of their group's table, and entries get their gradients.

d/d latent = 1    d/d entry = sum of the gradients of the weights rounded to it
"""

from __future__ import annotations

import torch
from torch import nn

from ...quantization.quantized_matrix import QuantizedMatrix, grouped, with_codebook
from ..straight_through import straight_through, to_half

FORMS = ("codebook",)
JUST_INSIDE = 0.98  # of the distance to the boundary of a cell


class LearnedCodebook(nn.Module):
    """One matrix in training.

    Attributes:
        layout: how groups lie.
        shape: rows and columns.
        latent: float32 `[groups, elements]`, the weights that are rounded.
        ranges: `levels`, float32 `[groups, entries]`.
    """

    def __init__(self, weight: torch.Tensor, start: QuantizedMatrix) -> None:
        """Start from a quantizer's result, with latent weights inside the cells of its codes.

        Args:
            weight: float32 `[rows, columns]`, before quantization.
            start: the quantizer's codes and codebook.

        Raises:
            ValueError: the start has no codebook.
            RuntimeError: rounding the latent weights does not reproduce the codes.
        """
        super().__init__()
        if start.codebook is None:
            raise ValueError("the matrix has no codebook")
        self.layout, self.shape = start.layout, tuple(start.codes.shape)
        levels = start.codebook.float().reshape(-1, 2**self.layout.bits)
        stored = start.dequantize()
        cells = grouped(stored, self.layout)
        middles = (levels[:, 1:] + levels[:, :-1]) / 2
        far = torch.full((len(levels), 1), torch.inf)
        codes = grouped(start.codes, self.layout).long()
        low = torch.cat([-far, middles], 1).gather(1, codes) - cells
        high = torch.cat([middles, far], 1).gather(1, codes) - cells
        remainder = grouped(weight.detach().float() - stored, self.layout)
        self.latent = nn.Parameter(cells + remainder.clamp(JUST_INSIDE * low, JUST_INSIDE * high))
        self.ranges = nn.ParameterDict({"levels": nn.Parameter(levels.clone())})
        with torch.no_grad():
            moved = grouped(self() != stored, self.layout)
            self.latent[moved] = cells[moved]
            if not torch.equal(self(), stored):
                raise RuntimeError(f"latent weights in {self.layout} do not round to their codes")

    def forward(self) -> torch.Tensor:
        """Return the stored weights, float32 `[rows, columns]`."""
        levels = self._levels()
        taken = levels.gather(1, self._codes(levels))
        return (taken + straight_through(self.latent, torch.zeros_like)).reshape(self.shape)

    @torch.no_grad()
    def stored(self) -> QuantizedMatrix:
        """Return the matrix to store; its `dequantize` equals `forward`, bit for bit."""
        levels = self._levels()
        codes = self._codes(levels).to(torch.uint8).reshape(self.shape)
        return with_codebook(self.layout, codes, levels.half())

    @torch.no_grad()
    def centre(self) -> None:
        """Move latent weights to their entries."""
        self.latent.copy_(self().reshape(self.latent.shape))

    def _levels(self) -> torch.Tensor:
        """Entries as stored, sorted again in case some have crossed."""
        return straight_through(self.ranges["levels"], to_half).sort(1).values

    def _codes(self, levels: torch.Tensor) -> torch.Tensor:
        middles = ((levels[:, 1:] + levels[:, :-1]) / 2).detach().contiguous()
        return torch.searchsorted(middles, self.latent.detach().contiguous())


def trained(weight: torch.Tensor, start: QuantizedMatrix) -> LearnedCodebook:
    """Return the trainable form of a matrix."""
    return LearnedCodebook(weight, start)
