"""KL of the outputs at temperature 2, `T² · KL(teacher || student)`; relative squared error if they are not logits.

Hinton et al. 2015.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...models.outputs import SOFTMAX_KINDS
from ..passes import Comparison, Point
from ..relative_error import relative_error

NEEDS_LABELS = False
TEMPERATURE = 2.0


def points(depth: int) -> Sequence[Point]:
    """Outputs only."""
    return ()


def loss(seen: Comparison) -> torch.Tensor:
    """Return the mean over rows."""
    student, teacher = seen.student.rows, seen.teacher.rows
    if student.kind not in SOFTMAX_KINDS:
        return relative_error(student.values, teacher.values, torch.ones(()))
    log_q = (student.values / TEMPERATURE).log_softmax(-1)
    log_p = (teacher.values / TEMPERATURE).log_softmax(-1)
    return TEMPERATURE**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()
