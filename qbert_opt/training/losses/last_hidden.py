"""Relative squared error of the last hidden states."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..passes import Comparison, Point

NEEDS_LABELS = False


def points(depth: int) -> Sequence[Point]:
    """The last block's output."""
    return (("hidden", depth - 1),)


def loss(seen: Comparison) -> torch.Tensor:
    """Return the error over all real tokens."""
    return seen.error(("hidden", seen.depth - 1))
