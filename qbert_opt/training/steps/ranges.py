"""Ranges only, end to end: distil scales and offsets; codes follow them, latent weights are frozen."""

from __future__ import annotations

from collections.abc import Iterator

from ..objective import objective
from ..phases import Phase
from ..settings import RecoverySettings
from ..student import Learned, Student
from ..teacher import Teacher

RATES = (0.0, 4e-5)
COST = 1.2  # with the teacher's pass in the first epoch


def num_phases(teacher: Teacher) -> int:
    """One."""
    return 1


def phases(
    student: Student, teacher: Teacher, rates: tuple[float, float], settings: RecoverySettings
) -> Iterator[Phase]:
    """One phase over the whole model."""
    learned = Learned([], student.learned().ranges)
    yield Phase("ranges", learned, rates, objective(student, teacher, settings.losses), True)
