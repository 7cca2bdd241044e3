"""Relative squared error of the attention scores before the softmax, of all blocks (TernaryBERT, KDLSQ-BERT)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..passes import Comparison, Point, attention_scores
from ..relative_error import relative_error

NEEDS_LABELS = False


def points(depth: int) -> Sequence[Point]:
    """Queries and keys of every block."""
    return [(what, block) for block in range(depth) for what in ("query", "key")]


def loss(seen: Comparison) -> torch.Tensor:
    """Return the sum over blocks; pairs with a padding token do not count."""
    pairs = seen.mask[:, None, :, None] * seen.mask[:, None, None, :]
    errors = []
    for block in range(seen.depth):
        student, teacher = (attention_scores(one, seen.heads[block], block) for one in (seen.student, seen.teacher))
        errors.append(relative_error(student, teacher, pairs))
    return torch.stack(errors).sum()
