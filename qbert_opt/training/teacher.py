"""The teacher: the float model, and its outputs for the training text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ..models.batches import TokenBatch
from ..models.loading import LoadedModel
from ..models.outputs import Head
from ..models.targets import Targets
from ..spec.allocation import Allocation
from .blocks import BlockCall, block_names, chained_calls, watched
from .passes import Pass, Point, point_modules, run_pass

CACHE_BYTES = 1 << 30  # of cached outputs; the others are recomputed


class Teacher:
    """The float model with the training text.

    Attributes:
        loaded: the model.
        batches: the training text.
        blocks: names of the model's encoder blocks.
        heads: attention heads per block.
        labels: correct answers for the text; None without labels.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        plan: Allocation,
        batches: Sequence[TokenBatch],
        labels: Targets | None = None,
    ) -> None:
        """Collect what is known before any pass.

        Args:
            loaded: the model.
            plan: of this model; it knows the roles of its matrices.
            batches: the training text.
            labels: correct answers for the text.
        """
        self.loaded, self.batches, self.labels = loaded, batches, labels
        self.blocks, self.heads = block_names(loaded.model, plan), plan.profile.heads
        self._plan = plan
        self._kept, self._bytes = dict[int, Pass](), 0

    @property
    def head(self) -> Head:
        """How outputs are read."""
        return self.loaded.head

    def modules_of(self, points: Sequence[Point]) -> dict[Point, str]:
        """Return the module whose output each point is.

        Raises:
            UsageError: the model has no such point.
        """
        return point_modules(self._plan, self.blocks, points)

    @torch.no_grad()
    def answer(self, index: int, modules: Mapping[Point, str]) -> Pass:
        """Return the pass over a batch with the outputs of these modules, cached up to `CACHE_BYTES`."""
        if index in self._kept and modules.keys() <= self._kept[index].points.keys():
            return self._kept[index]
        made = self.run(index, modules)
        self._bytes += 4 * sum(tensor.numel() for tensor in made.points.values())
        if self._bytes <= CACHE_BYTES:
            self._kept[index] = made
        return made

    @torch.no_grad()
    def run(self, index: int, modules: Mapping[Point, str]) -> Pass:
        """Run the model over a batch and return the outputs of these modules."""
        return run_pass(self.head, self.loaded.model, self.batches[index], modules)

    @torch.no_grad()
    def block_calls(self, index: int) -> list[BlockCall]:
        """Return the arguments of each block on a batch.

        Raises:
            UsageError: the blocks do not form a chain.
        """
        with watched(self.loaded.model, self.blocks) as seen:
            self.loaded.model(**self.batches[index].inputs)
        return chained_calls(seen)
