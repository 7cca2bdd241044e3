"""Relative squared error of the hidden states, summed over all blocks (TinyBERT, Jiao et al. 2020; TernaryBERT)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..passes import Comparison, Point

NEEDS_LABELS = False


def points(depth: int) -> Sequence[Point]:
    """Every block's output."""
    return [("hidden", block) for block in range(depth)]


def loss(seen: Comparison) -> torch.Tensor:
    """Return the sum over blocks."""
    return torch.stack([seen.error(point) for point in points(seen.depth)]).sum()
