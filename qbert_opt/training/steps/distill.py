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

    Latent weights start in the middle of their cells, unless they are still the float weights: `blocks` leaves many
    near borders, where gradient noise in Adam's first steps would change codes, in all blocks at once.
    """
    begin = student.centre if settings.start == "codes" else as_left
    loss = objective(student, teacher, settings.losses)
    yield Phase("distill", student.learned(), rates, loss, whole=True, begin=begin)
