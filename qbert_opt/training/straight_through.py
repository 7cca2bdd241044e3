"""The one way past a rounding: its value forward, the gradient of what went in backward (Bengio et al. 2013)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, rounded: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        return rounded(values)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


def straight_through(values: torch.Tensor, rounded: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Return `rounded(values)`, bit for bit, with the gradient of `values`.

    Args:
        values: float tensor.
        rounded: returns a new tensor of the same shape and type; never differentiated.
    """
    found: torch.Tensor = _StraightThrough.apply(values, rounded)  # type: ignore[no-untyped-call]
    return found


def to_half(values: torch.Tensor) -> torch.Tensor:
    """Round to fp16, as float32: what a file holds of a range, a bias or a LayerNorm."""
    return values.half().float()
