"""End-to-end distillation: match the teacher's outputs at temperature 2 and its last hidden states."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ...models.outputs import answers
from ..blocks import watched
from ..losses import answer_loss, relative_error
from ..phases import Phase
from ..student import Student
from ..teacher import Teacher

RATES = (2e-5, 4e-5)
COST = 1.2  # with the teacher's pass in the first epoch


def num_phases(teacher: Teacher) -> int:
    """One."""
    return 1


def phases(student: Student, teacher: Teacher, rates: tuple[float, float], block_error: str) -> Iterator[Phase]:
    """One phase over the whole model."""
    yield Phase("distill", student.learned(), rates, lambda index: end_to_end(student, teacher, index), True)


def end_to_end(student: Student, teacher: Teacher, index: int) -> torch.Tensor:
    """Loss of a batch: KL of the outputs at temperature 2 plus relative error of the last hidden states."""
    target, batch = teacher.answer(index), teacher.batches[index]
    with watched(student.skeleton, teacher.blocks[-1:]) as seen:
        outputs = answers(teacher.head, student, batch)
    hidden = seen[teacher.blocks[-1]][-1][1]
    return answer_loss(outputs, target.rows) + relative_error(hidden, target.hidden, batch.mask.float())
