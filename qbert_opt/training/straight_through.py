"""The straight-through estimator, used for every rounding: rounded forward, identity backward (Bengio et al. 2013)."""

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
    result: torch.Tensor = _StraightThrough.apply(values, rounded)  # type: ignore[no-untyped-call]
    return result


def to_half(values: torch.Tensor) -> torch.Tensor:
    """Round to fp16 and return float32: ranges, biases and LayerNorm as they are stored.

    Args:
        values: of any shape.
    """
    return values.half().float()
