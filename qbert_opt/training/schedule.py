"""From minutes to passes over the text, by timing a few batches."""

from __future__ import annotations

import time

import numpy as np

from ..runtime import plugins
from .attention import training_attention
from .phases import Step
from .settings import RecoverySettings
from .steps.distill import end_to_end
from .student import Student
from .teacher import Teacher

TIMED_BATCHES = 5


def epochs_for(minutes: float, student: Student, teacher: Teacher, settings: RecoverySettings) -> dict[str, float]:
    """Return passes over the text of each step that together take about so long; each step gets as much time.

    The machine's speed decides here and nowhere later: a run with these `epochs` gives the same result again.

    Args:
        minutes: above 0; of training, without what comes before and after.
        student: what is trained; stays as it is.
        teacher: with the training text.
        settings: says which steps there are.
    """
    seconds = _seconds_per_pass(student, teacher)
    costs = {name: plugins.load_as("training_steps", name, Step).COST for name in settings.steps}
    share = 60 * minutes / len(settings.steps)
    least = 1 / len(teacher.batches)
    return {name: max(least, float(f"{share / (seconds * cost):.3g}")) for name, cost in costs.items()}


def _seconds_per_pass(student: Student, teacher: Teacher) -> float:
    """Time of the student's pass forward and back over the whole text, from a few batches short and long."""
    count = len(teacher.batches)
    chosen = np.unique(np.linspace(0, count - 1, min(TIMED_BATCHES, count)).round().astype(int)).tolist()
    with training_attention(teacher.batches):  # answers that are kept are those of training
        for index in chosen:
            teacher.answer(index)  # its time is not the student's
        begun = time.monotonic()
        for place, index in enumerate((chosen[-1], *chosen)):
            if place == 1:  # the first pass is slow
                begun = time.monotonic()
            end_to_end(student, teacher, index).backward()
    student.zero_grad()
    return (time.monotonic() - begun) / len(chosen) * count
