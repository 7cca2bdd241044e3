"""Cross-entropy with the labels, mean over rows that have one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...models.samples import NONE
from ..passes import Comparison, Point

NEEDS_LABELS = True


def points(depth: int) -> Sequence[Point]:
    """Outputs only."""
    return ()


def loss(seen: Comparison) -> torch.Tensor:
    """Return the mean in nats; 0 if no row of the batch has a label."""
    values, correct = seen.student.rows.values, seen.correct
    total = torch.nn.functional.cross_entropy(values, correct, ignore_index=NONE, reduction="sum")
    return total / (correct != NONE).sum().clamp_min(1)
