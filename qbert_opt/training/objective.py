"""The loss of end-to-end training: a weighted sum of losses between the student, the teacher and the labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from ..runtime import plugins
from .passes import Comparison, Point, TrainingLoss, run_pass
from .student import Student
from .teacher import Teacher


def objective(student: Student, teacher: Teacher, weights: Mapping[str, float]) -> Callable[[int], torch.Tensor]:
    """Return a function from a batch's number to its loss, in the graph.

    Args:
        student: the model in training.
        teacher: the float model with the training text, and its labels if a loss needs them.
        weights: of each loss.
    """
    losses = {name: loaded_loss(name) for name in weights}
    modules = teacher.modules_of(points_of(weights, len(teacher.blocks)))

    def loss(index: int) -> torch.Tensor:
        batch = teacher.batches[index]
        made = run_pass(teacher.head, student, batch, modules, student.skeleton)
        seen = Comparison(
            made, lambda: teacher.answer(index, modules), batch, len(teacher.blocks), teacher.heads,
            None if teacher.labels is None else teacher.labels.of(made.rows),
        )  # fmt: skip
        return torch.stack([weights[name] * loss.loss(seen) for name, loss in losses.items()]).sum()

    return loss


def points_of(weights: Mapping[str, float], depth: int) -> list[Point]:
    """Return the points that the losses read, each once.

    Args:
        weights: of the losses by name.
        depth: number of blocks of the model.
    """
    return list(dict.fromkeys(point for name in weights for point in loaded_loss(name).points(depth)))


def needs_labels(weights: Mapping[str, float]) -> list[str]:
    """Return the losses that compare with labels.

    Args:
        weights: of the losses by name.
    """
    return [name for name in weights if loaded_loss(name).NEEDS_LABELS]


def loaded_loss(name: str) -> TrainingLoss:
    """Return a loss by its name.

    Args:
        name: of a file in `training/losses`, or of a plug-in.

    Raises:
        UsageError: there is no such loss.
    """
    return plugins.load_as("training_losses", name, TrainingLoss)
