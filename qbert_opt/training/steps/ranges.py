"""Ranges only, end to end: distil scales and offsets; codes follow them, latent weights are frozen."""

from __future__ import annotations

from collections.abc import Iterator

from ..phases import Phase
from ..student import Learned, Student
from ..teacher import Teacher
from .distill import end_to_end

RATES = (0.0, 4e-5)
COST = 1.2  # with the teacher's pass in the first epoch


def num_phases(teacher: Teacher) -> int:
    """One."""
    return 1


def phases(student: Student, teacher: Teacher, rates: tuple[float, float], block_error: str) -> Iterator[Phase]:
    """One phase over the whole model."""
    learned = Learned([], student.learned().ranges)
    yield Phase("ranges", learned, rates, lambda index: end_to_end(student, teacher, index), True)
