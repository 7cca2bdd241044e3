"""KL of the attention maps, mean over heads and tokens, summed over all blocks (Kim et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..passes import Comparison, Point, attention_scores, map_divergence

NEEDS_LABELS = False


def points(depth: int) -> Sequence[Point]:
    """Queries and keys of every block."""
    return [(what, block) for block in range(depth) for what in ("query", "key")]


def loss(seen: Comparison) -> torch.Tensor:
    """Return the sum over blocks."""
    divergences = []
    for block in range(seen.depth):
        student, teacher = (attention_scores(one, seen.heads[block], block) for one in (seen.student, seen.teacher))
        divergences.append(map_divergence(student, teacher, seen.mask))
    return torch.stack(divergences).sum()
