"""What every metric is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from ..models.batches import TokenBatch
from ..models.outputs import Head, head_of
from ..profiles import MatrixSpec, ModelProfile
from ..scores import BlockSensitivity


@dataclass(frozen=True, slots=True)
class Estimate:
    """Scores of one matrix under its choices.

    Attributes:
        value: float64 `[choices]`.
        std_error: float64 `[choices]`, over samples or slices.
    """

    value: torch.Tensor
    std_error: torch.Tensor


@dataclass(slots=True)
class ScoringTask:
    """A model, the text that scores, and the rounding errors to be scored.

    Attributes:
        model: in evaluation mode.
        profile: its shapes.
        batches: scoring samples.
        labels: int64 `[N]`, or None when the data has none.
        perturbations: gives ΔW of one matrix under its choices, float32 `[choices, rows, columns]`.
        memory_limit_bytes: what a metric may keep at a time.
        seed: of every random draw.
        note: called with what goes on.
        block_sensitivity: filled by metrics that score encoder layers.
        given_head: how the model's answers are read; by its class when None.
    """

    model: nn.Module
    profile: ModelProfile
    batches: Sequence[TokenBatch]
    labels: torch.Tensor | None
    perturbations: Callable[[MatrixSpec], torch.Tensor]
    memory_limit_bytes: int
    seed: int
    note: Callable[[str], None] = lambda _text: None
    block_sensitivity: list[BlockSensitivity] = field(default_factory=list)
    given_head: Head | None = None

    @property
    def head(self) -> Head:
        """How the model's answers are read."""
        return self.given_head or head_of(self.model)
