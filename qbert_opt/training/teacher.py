"""The teacher: the float model, and its outputs for the training text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..models.batches import TokenBatch
from ..models.loading import LoadedModel
from ..models.outputs import Head, Outputs, answers
from .blocks import BlockCall, chained_calls, watched

CACHE_BYTES = 1 << 30  # of cached outputs; the others are recomputed


@dataclass(frozen=True, slots=True)
class Answer:
    """Outputs for one batch.

    Attributes:
        rows: outputs of the head.
        hidden: float32 `[B, T, d]`, last hidden states of the encoder.
    """

    rows: Outputs
    hidden: torch.Tensor


class Teacher:
    """The float model with the training batches.

    Attributes:
        loaded: the model.
        batches: the training text.
        blocks: names of the model's encoder blocks.
    """

    def __init__(self, loaded: LoadedModel, batches: Sequence[TokenBatch], blocks: Sequence[str]) -> None:
        self.loaded, self.batches, self.blocks = loaded, batches, blocks
        self._kept, self._bytes = dict[int, Answer](), 0

    @property
    def head(self) -> Head:
        """How outputs are read."""
        return self.loaded.head

    @torch.no_grad()
    def answer(self, index: int) -> Answer:
        """Return the outputs for a batch, cached up to `CACHE_BYTES`."""
        if index in self._kept:
            return self._kept[index]
        with watched(self.loaded.model, self.blocks[-1:]) as seen:
            rows = answers(self.head, self.loaded.model, self.batches[index])
        made = Answer(rows, seen[self.blocks[-1]][-1][1])
        self._bytes += 4 * made.hidden.numel()
        if self._bytes <= CACHE_BYTES:
            self._kept[index] = made
        return made

    @torch.no_grad()
    def block_calls(self, index: int) -> list[BlockCall]:
        """Return the arguments of each block on a batch.

        Raises:
            UsageError: the blocks do not form a chain.
        """
        with watched(self.loaded.model, self.blocks) as seen:
            self.loaded.model(**self.batches[index].inputs)
        return chained_calls(seen)
