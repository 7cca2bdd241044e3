"""What every metric is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from ..models.batches import TokenBatch
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
    """

    model: PreTrainedModel
    profile: ModelProfile
    batches: Sequence[TokenBatch]
    labels: torch.Tensor | None
    perturbations: Callable[[MatrixSpec], torch.Tensor]
    memory_limit_bytes: int
    seed: int
    note: Callable[[str], None] = lambda _text: None
    block_sensitivity: list[BlockSensitivity] = field(default_factory=list)
