"""End to end: the whole model learns the chosen losses, by default the teacher's outputs and last hidden states."""

from __future__ import annotations

from collections.abc import Iterator

from ..objective import objective
from ..phases import Phase, as_left
from ..settings import RecoverySettings
from ..student import Student
from ..teacher import Teacher

RATES = (2e-5, 4e-5)
COST = 1.2  # with the teacher's pass in the first epoch


def num_phases(teacher: Teacher) -> int:
    """One."""
    return 1


def phases(
    student: Student, teacher: Teacher, rates: tuple[float, float], settings: RecoverySettings
) -> Iterator[Phase]:
    """One phase over the whole model.

    Latent weights start in the middle of their cells, unless they still are the float weights: `blocks` leaves many at
    borders, where Adam's first steps change codes by the noise of the gradients, in all blocks at once.
    """
    begin = student.centre if settings.start == "codes" else as_left
    loss = objective(student, teacher, settings.losses)
    yield Phase("distill", student.learned(), rates, loss, whole=True, begin=begin)
