"""Activation quantization: round the inputs of matrices to integers, on single tensors or throughout a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..models.layers import is_linear
from ..spec.planned import PlannedActivation

SMALLEST = 1e-12
Hook = Callable[[nn.Module, tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]]


def round_activations(
    values: torch.Tensor, bits: int, low: torch.Tensor | float | None = None, high: torch.Tensor | float | None = None
) -> torch.Tensor:
    """Return values rounded to `2**bits` levels of a range that contains zero; the shape is unchanged.

    Args:
        values: `[..., columns]`.
        bits: of a code.
        low: lower end of the range; None uses a dynamic range for each token.
        high: upper end.
    """
    if low is None or high is None:
        low, high = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
    lowest = torch.as_tensor(low, dtype=values.dtype).clamp_max(0.0)
    highest = torch.as_tensor(high, dtype=values.dtype).clamp_min(0.0)
    top = 2**bits - 1
    scale = ((highest - lowest) / top).clamp_min(SMALLEST)
    zero = (-lowest / scale).round()
    rounded: torch.Tensor = ((values / scale).round() + zero).clamp(0, top).sub(zero).mul(scale)
    return rounded


def with_rounded_inputs(
    model: nn.Module,
    planned: Sequence[PlannedActivation],
    rounder: Callable[[int, float | None, float | None], Hook] | None = None,
) -> nn.Module:
    """Make a model round the inputs of its matrices in every later forward pass; returns the same model.

    Layers that share their weight with a named one are rounded alike.

    Args:
        model: changed.
        planned: the inputs to round, with their bits and ranges.
        rounder: makes a matrix's pre-hook from bits, lower end and upper end; `Rounder` if None.
    """
    make = rounder or Rounder
    by_weight = {id(model.get_submodule(name).weight): item for item in planned for name in item.modules}
    for module in model.modules():
        item = by_weight.get(id(getattr(module, "weight", None)))
        if item is not None and is_linear(module):
            module.register_forward_pre_hook(make(item.bits, item.low, item.high))
    return model


@dataclass(frozen=True, slots=True)
class Rounder:
    """Forward pre-hook of one matrix; a class, so that a model with it can be copied."""

    bits: int
    low: float | None
    high: float | None

    def __call__(self, _module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Return the arguments with the first one rounded."""
        return (round_activations(args[0], self.bits, self.low, self.high), *args[1:])
