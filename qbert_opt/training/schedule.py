"""Convert minutes to passes over the text by timing a few batches."""

from __future__ import annotations

import time

import numpy as np

from ..runtime import plugins
from ..runtime.distributed import Processes
from .attention import training_attention
from .objective import objective
from .phases import Step
from .settings import RecoverySettings
from .student import Student
from .teacher import Teacher

TIMED_BATCHES = 5


def epochs_for(
    minutes: float, student: Student, teacher: Teacher, settings: RecoverySettings, team: Processes | None = None
) -> dict[str, float]:
    """Return the passes over the text for each step that together take about this long, with time split equally.

    The machine's speed matters only here: a run with these `epochs` is reproducible.

    Args:
        minutes: training time, above 0, without setup and final measurement.
        student: the model to be trained; not modified.
        teacher: the float model with the training text.
        settings: its steps are used.
        team: the processes that share the batches; all get the same result.
    """
    team = team or Processes()
    seconds = float(team.sum(np.array([_seconds_per_pass(student, teacher, settings)]))[0]) / team.count**2
    costs = {name: plugins.load_as("training_steps", name, Step).COST for name in settings.steps}
    share = 60 * minutes / len(settings.steps)
    least = 1 / len(teacher.batches)
    return {name: max(least, float(f"{share / (seconds * cost):.3g}")) for name, cost in costs.items()}


def _seconds_per_pass(student: Student, teacher: Teacher, settings: RecoverySettings) -> float:
    """Estimate the time of a forward and backward pass over the whole text from a few short and long batches."""
    count = len(teacher.batches)
    timed = np.unique(np.linspace(0, count - 1, min(TIMED_BATCHES, count)).round().astype(int)).tolist()
    loss = objective(student, teacher, settings.losses)
    with training_attention(teacher.batches):
        for index in timed:
            loss(index)  # the teacher's outputs are cached in training, so its time is not counted
        begun = time.monotonic()
        for place, index in enumerate((timed[-1], *timed)):
            if place == 1:  # the first pass is slow
                begun = time.monotonic()
            loss(index).backward()
    student.zero_grad()
    return (time.monotonic() - begun) / len(timed) * count
