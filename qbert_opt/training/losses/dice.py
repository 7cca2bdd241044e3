"""Dice loss with the labels, for imbalanced classes and tags: all classes weigh the same (Li et al. 2020, square form).

With p the probability of a class, y 1 where it is correct and p' = (1 - p)^α p, its loss is

    1 - (2 Σ p' y + γ) / (Σ p'² + Σ y + γ)        sums over the rows of the batch

and the loss is the mean over classes. α down-weights rows that are already right; γ smooths classes that do not occur.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...models.samples import NONE
from ..passes import Comparison, Point

NEEDS_LABELS = True
ALPHA = 0.01
SMOOTHING = 1.0


def points(depth: int) -> Sequence[Point]:
    """Outputs only."""
    return ()


def loss(seen: Comparison) -> torch.Tensor:
    """Return the mean over classes, between 0 and 1."""
    labelled = seen.correct != NONE
    p = seen.student.rows.values[labelled].softmax(-1)
    y = torch.nn.functional.one_hot(seen.correct[labelled], p.shape[1]).to(p.dtype)
    weakened = (1 - p).clamp_min(torch.finfo(p.dtype).eps) ** ALPHA * p  # a power's gradient at 0 is infinite
    dice = (2 * (weakened * y).sum(0) + SMOOTHING) / (weakened.square().sum(0) + y.sum(0) + SMOOTHING)
    return 1 - dice.mean()
