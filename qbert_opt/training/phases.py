"""A phase of training: learned parameters, learning rates and loss. A step of the ladder consists of phases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from .settings import RecoverySettings
from .student import Learned, Student
from .teacher import Teacher


def as_left() -> None:
    """Begin a phase with the parameters unchanged from the previous one."""


@dataclass(frozen=True, slots=True)
class Phase:
    """One optimization with its own learning-rate schedule.

    Attributes:
        name: unique in a run, for example `blocks 3/6`.
        learned: the parameters to train; all others are frozen.
        rates: peak learning rates of weights and of ranges.
        loss: maps a batch's number to its loss, in the graph.
        whole: whether it trains the whole model, so that its state is measured after each pass over the text.
        begin: called once, before the first update, and not again when a phase resumes.
    """

    name: str
    learned: Learned
    rates: tuple[float, float]
    loss: Callable[[int], torch.Tensor]
    whole: bool = False
    begin: Callable[[], None] = as_left


class BlockError(Protocol):
    """A file in `training/block_errors`: the weight of each token in the error of a block's output."""

    def token_weights(self, teacher: Teacher) -> list[list[torch.Tensor]]:
        """Return weights `[blocks][batches]`, float32 `[samples, tokens]`, of mean 1 over real tokens, 0 at padding.

        Args:
            teacher: the float model with the training text.
        """


class Step(Protocol):
    """A file in `training/steps`.

    Attributes:
        RATES: default learning rates of weights and ranges.
        COST: time of one pass over the text by all its phases, relative to a forward and backward pass of the student.
    """

    RATES: tuple[float, float]
    COST: float

    def num_phases(self, teacher: Teacher) -> int:
        """Return the number of phases.

        Args:
            teacher: the float model with the training text.
        """

    def phases(
        self, student: Student, teacher: Teacher, rates: tuple[float, float], settings: RecoverySettings
    ) -> Iterator[Phase]:
        """Yield the phases in order; the code after a `yield` runs once that phase has been trained.

        Args:
            student: the model in training.
            teacher: the float model with the training text.
            rates: peak learning rates of weights and of ranges.
            settings: of the whole training.
        """
