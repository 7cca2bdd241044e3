"""Ranges follow the weights: each pass rounds to nearest in the min-max range of each group (Q-BERT, Shen et al. 2020).

Nothing but the latent weights is learned; their gradient is that of the stored weights: d/d latent = 1.
"""

from __future__ import annotations

import torch
from torch import nn

from ...errors import UsageError
from ...quantization.methods.rtn import quantize
from ...quantization.quantized_matrix import QuantizedMatrix
from ..straight_through import straight_through

FORMS = ("offset", "symmetric", "signed", "zero-point", "ternary")


class FollowingRanges(nn.Module):
    """One matrix in training.

    Attributes:
        layout: the groups and the form of their ranges.
        latent: float32 `[rows, columns]`, the weights that are rounded.
        ranges: empty.
    """

    def __init__(self, weight: torch.Tensor, start: QuantizedMatrix) -> None:
        """Start from float weights.

        Args:
            weight: float32 `[rows, columns]`, before quantization.
            start: the same weights rounded to nearest.

        Raises:
            UsageError: the start is another quantizer's; its ranges are not min-max.
        """
        super().__init__()
        self.layout = start.layout
        self.latent = nn.Parameter(weight.detach().float().clone())
        self.ranges = nn.ParameterDict()
        if not torch.equal(self().detach(), start.dequantize()):
            raise UsageError("quantizer: 'minmax' cannot start from another quantizer's codes; set start to 'nearest'.")

    def forward(self) -> torch.Tensor:
        """Return the stored weights, float32 `[rows, columns]`."""
        return straight_through(self.latent, lambda latent: self._rounded(latent).dequantize())

    @torch.no_grad()
    def stored(self) -> QuantizedMatrix:
        """Return the matrix to store; its `dequantize` equals `forward`, bit for bit."""
        return self._rounded(self.latent)

    def centre(self) -> None:
        """Leave latent weights where they are: their extremes are the ranges."""

    def _rounded(self, latent: torch.Tensor) -> QuantizedMatrix:
        [found] = quantize(latent.detach(), [self.layout])
        return found


def trained(weight: torch.Tensor, start: QuantizedMatrix) -> FollowingRanges:
    """Return the trainable form of a matrix."""
    return FollowingRanges(weight, start)
