"""Rounded inputs of matrices in training: as `activation_quant.Rounder` rounds them, with gradients and learned ranges.

A static range [l, h] is learned: each end is its start times a factor, so that one learning rate suits wide and narrow
ranges. With s = (h - l) / (2^b - 1) and straight-through roundings, the gradient inside is LSQ's and the clipped part
PACT's (Choi et al. 2018): an end gets the gradients of all values beyond it, and the values themselves get none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ..quantization.activation_quant import SMALLEST, round_activations
from ..spec.planned import PlannedActivation
from .straight_through import straight_through

SMALLEST_FACTOR = 0.01


class LearnedRange(nn.Module):
    """The static range of one input.

    Attributes:
        factors: float32 `[2]`, of the lower and the upper end.
    """

    start: torch.Tensor

    def __init__(self, planned: PlannedActivation) -> None:
        super().__init__()
        self.register_buffer("start", torch.tensor([planned.low or 0.0, planned.high or 0.0]), persistent=False)
        self.factors = nn.Parameter(torch.ones(2))

    def ends(self) -> torch.Tensor:
        """Return the lower and the upper end, float32 `[2]`, in the graph."""
        return self.start * self.factors.clamp_min(SMALLEST_FACTOR)

    @torch.no_grad()
    def planned(self, before: PlannedActivation) -> PlannedActivation:
        """Return the planned input with this range.

        Args:
            before: the input as planned; everything but its range is kept.
        """
        low, high = self.ends().tolist()
        return before.model_copy(update={"low": low, "high": high})


@dataclass(frozen=True, slots=True)
class TrainedRounder:
    """Forward pre-hook of one matrix; `range` is None where each token has its own range, computed in each pass."""

    bits: int
    range: LearnedRange | None = None

    def __call__(self, _module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Return the arguments with the first one rounded."""
        values = args[0]
        if self.range is None:
            return (straight_through(values, lambda given: round_activations(given, self.bits)), *args[1:])
        low, high = self.range.ends()
        top = 2**self.bits - 1
        scale = ((high - low) / top).clamp_min(SMALLEST)
        zero = straight_through(-low / scale, torch.round)
        codes = (straight_through(values / scale, torch.round) + zero).clamp(0, top)
        return ((codes - zero) * scale, *args[1:])
