"""A phase of training: what is learned, how fast, and the loss of a batch. A step of the ladder is a few of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from .student import Learned, Student
from .teacher import Teacher


@dataclass(frozen=True, slots=True)
class Phase:
    """One optimization, up to its own learning rate and down to zero.

    Attributes:
        name: unique in a run, for example `blocks 3/6`.
        learned: what is learned; all else stays as it is.
        rates: learning rates of weights and of ranges, at their highest.
        loss: of the batch of that number, in the graph.
        whole: it trains the whole model, so that its state is worth measuring after each pass over the text.
    """

    name: str
    learned: Learned
    rates: tuple[float, float]
    loss: Callable[[int], torch.Tensor]
    whole: bool = False


class BlockError(Protocol):
    """A file in `training/block_errors`: how much each token counts in the error of a block's output."""

    def token_weights(self, teacher: Teacher) -> list[list[torch.Tensor]]:
        """Return weights `[blocks][batches]`, float32 `[samples, tokens]`, of mean 1 over real tokens, 0 at padding.

        Args:
            teacher: the float model with the training text.
        """


class Step(Protocol):
    """A file in `training/steps`.

    Attributes:
        RATES: usual learning rates of weights and ranges.
        COST: time of one pass over the text by all its phases, in passes of the student forward and back.
    """

    RATES: tuple[float, float]
    COST: float

    def num_phases(self, teacher: Teacher) -> int:
        """Return how many phases there will be."""

    def phases(
        self, student: Student, teacher: Teacher, rates: tuple[float, float], block_error: str
    ) -> Iterator[Phase]:
        """Give phase after phase; what follows a `yield` runs when the phase is over, with what it learned."""
