"""The teacher: the float model, and its outputs for the training text.

If the plan leaves layers out, the student is shallower. Each of its blocks then learns the teacher's hidden states
before the next kept layer, and so takes over the missing layers after it; its attention is compared with that of the
layer it came from. If the plan leaves heads out, queries, keys and values are those of the kept heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from ..models.batches import TokenBatch, run
from ..models.layers import largest_module_list
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
        blocks: names of the student's encoder blocks.
        sources: the number of the teacher's block that each of the student's was made from.
        stages: for each block of the student, names of the teacher's blocks that it replaces, in order; it learns the
            output of the last one.
        heads: attention heads of each block of the student.
        labels: correct answers for the text; None without labels.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        plan: Allocation,
        batches: Sequence[TokenBatch],
        labels: Targets | None = None,
    ) -> None:
        """Collect everything known before any pass.

        Args:
            loaded: the model.
            plan: of this model, or of it without some layers or heads; it knows the roles of the student's matrices.
            batches: the training text.
            labels: correct answers for the text.
        """
        self.loaded, self.batches, self.labels = loaded, batches, labels
        self.blocks = block_names(loaded.model, plan)
        self.heads = plan.profile.block_heads or (plan.profile.heads,) * len(self.blocks)
        whole, missing = self.blocks, set[int]()
        if plan.dropped is not None:
            whole, missing = largest_module_list(loaded.model), set(plan.dropped.layers)
        self.sources = [number for number in range(len(whole)) if number not in missing]
        ends = [*self.sources[1:], len(whole)]
        starts = [0, *ends]
        self.stages = [whole[start:end] for start, end in zip(starts, ends, strict=False)]
        self._whole = whole
        self._plan = plan
        self._kept, self._bytes = dict[int, Pass](), 0

    @property
    def head(self) -> Head:
        """How outputs are read."""
        return self.loaded.head

    def modules_of(self, points: Sequence[Point]) -> dict[Point, str]:
        """Return the student's module whose output each point is.

        Args:
            points: what is read, and in which block of the student.

        Raises:
            UsageError: the model has no such point.
        """
        return point_modules(self._plan, self.blocks, points)

    def own_modules(self, modules: Mapping[Point, str]) -> dict[Point, str]:
        """Return the module of the teacher for each point, given the student's; the same if both have the same layers.

        Args:
            modules: name of the student's module, by point.
        """
        own = {}
        for (what, number), module in modules.items():
            if what == "hidden":
                own[what, number] = self.stages[number][-1]
            else:
                own[what, number] = self._whole[self.sources[number]] + module.removeprefix(self.blocks[number])
        return own

    @torch.no_grad()
    def answer(self, index: int, modules: Mapping[Point, str]) -> Pass:
        """Return the pass over a batch, with the teacher's values at the points of the student's modules.

        Passes are cached up to `CACHE_BYTES`.

        Args:
            index: number of the batch.
            modules: name of the student's module, by point.
        """
        if index in self._kept and modules.keys() <= self._kept[index].points.keys():
            return self._kept[index]
        made = self.run(index, modules)
        self._bytes += 4 * sum(tensor.numel() for tensor in made.points.values())
        if self._bytes <= CACHE_BYTES:
            self._kept[index] = made
        return made

    @torch.no_grad()
    def run(self, index: int, modules: Mapping[Point, str]) -> Pass:
        """Run the model over a batch and return its values at the points of the student's modules.

        Args:
            index: number of the batch.
            modules: name of the student's module, by point.
        """
        made = run_pass(self.head, self.loaded.model, self.batches[index], self.own_modules(modules))
        return replace(made, points={point: self._of_kept_heads(point, seen) for point, seen in made.points.items()})

    def _of_kept_heads(self, point: Point, seen: torch.Tensor) -> torch.Tensor:
        """Return the contribution of the student's heads to a point, `[B, T, d]`."""
        what, block = point
        dropped = self._plan.dropped_heads
        if dropped is None or what == "hidden" or not dropped.heads[block]:
            return seen
        kept = [head for head in range(dropped.num_heads) if head not in dropped.heads[block]]
        heads: torch.Tensor = seen.unflatten(-1, (dropped.num_heads, -1))[..., kept, :]
        return heads.flatten(-2)

    @torch.no_grad()
    def block_calls(self, index: int) -> list[BlockCall]:
        """Return the arguments of each of the teacher's blocks on a batch.

        Args:
            index: number of the batch.

        Raises:
            UsageError: the blocks do not form a chain.
        """
        with watched(self.loaded.model, self._whole) as seen:
            run(self.loaded.model, self.batches[index])
        return chained_calls(seen)
