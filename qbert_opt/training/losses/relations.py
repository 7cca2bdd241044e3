"""KL of the last block's relations between tokens: of queries, of keys and of values (MiniLMv2, Wang et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..passes import Comparison, Point, map_divergence, relation

NEEDS_LABELS = False
PARTS = ("query", "key", "value")


def points(depth: int) -> Sequence[Point]:
    """Queries, keys and values of the last block."""
    return [(part, depth - 1) for part in PARTS]


def loss(seen: Comparison) -> torch.Tensor:
    """Return the mean over the three relations."""
    divergences = []
    for point in points(seen.depth):
        student, teacher = (
            relation(one.points[point], one.points[point], seen.heads[point[1]]) for one in (seen.student, seen.teacher)
        )
        divergences.append(map_divergence(student, teacher, seen.mask))
    return torch.stack(divergences).mean()
