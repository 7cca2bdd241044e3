"""One forward pass of a model over a batch: its outputs, and its values at chosen points of its blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import nn

from ..errors import UsageError
from ..models.batches import TokenBatch
from ..models.outputs import Head, Outputs, answers
from ..spec.allocation import Allocation
from .blocks import watched
from .relative_error import relative_error

Point = tuple[str, int]
"""What is read, and in which block: `("hidden", 0)` is the first block's output, `("query", 0)` its query layer's.

There are also `key` and `value`.
"""


@dataclass(frozen=True, slots=True)
class Pass:
    """A pass over one batch.

    Attributes:
        rows: outputs of the head.
        points: float32 `[B, T, d]` at each recorded point.
        known: for partly known points: float32 `[B, T, d]`, 1 at known entries, else 0.
    """

    rows: Outputs
    points: Mapping[Point, torch.Tensor]
    known: Mapping[Point, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """The student's pass over a batch, and the teacher's.

    Attributes:
        student: the student's pass, in the graph.
        run_teacher: returns the teacher's pass; called only if a loss reads it.
        batch: the batch.
        depth: number of blocks.
        heads: attention heads of each block.
        labels: correct column of each row of the outputs, int64; None without labels.
    """

    student: Pass
    run_teacher: Callable[[], Pass]
    batch: TokenBatch
    depth: int
    heads: Sequence[int] = ()
    labels: torch.Tensor | None = None

    @cached_property
    def teacher(self) -> Pass:
        """The teacher's pass, without gradients."""
        return self.run_teacher()

    @cached_property
    def mask(self) -> torch.Tensor:
        """Float32 `[B, T]`: 1 at real tokens, 0 at padding."""
        return self.batch.mask.float()

    def error(self, point: Point) -> torch.Tensor:
        """Return the student's relative squared error at a point, over real tokens or their known entries.

        Args:
            point: one that both passes recorded.

        Returns:
            A scalar in the graph.
        """
        weights = self.teacher.known.get(point, self.mask[..., None])
        return relative_error(self.student.points[point], self.teacher.points[point], weights)

    @property
    def correct(self) -> torch.Tensor:
        """The labels.

        Raises:
            ValueError: there are none.
        """
        if self.labels is None:
            raise ValueError("the training text has no labels")
        return self.labels


class TrainingLoss(Protocol):
    """A file in `training/losses`: a loss of the whole model on one batch.

    Attributes:
        NEEDS_LABELS: whether it compares with labels; otherwise it compares with the teacher.
    """

    NEEDS_LABELS: bool

    def points(self, depth: int) -> Sequence[Point]:
        """Return the points that it reads besides the outputs.

        Args:
            depth: number of blocks.
        """

    def loss(self, seen: Comparison) -> torch.Tensor:
        """Return the loss, a scalar in the student's graph.

        Args:
            seen: the passes over a batch.
        """


def run_pass(
    head: Head, model: nn.Module, batch: TokenBatch, modules: Mapping[Point, str], hooked: nn.Module | None = None
) -> Pass:
    """Run a model over a batch and record it.

    Args:
        head: how outputs are read.
        model: the model that is called.
        batch: the batch.
        modules: name of the module whose output is recorded, by point.
        hooked: where those modules are; `model` itself if None.
    """
    with watched(hooked or model, list(dict.fromkeys(modules.values()))) as seen:
        rows = answers(head, model, batch)
    return Pass(rows, {point: seen[module][-1][1] for point, module in modules.items()})


def point_modules(plan: Allocation, blocks: Sequence[str], points: Iterable[Point]) -> dict[Point, str]:
    """Return the module whose output each point is.

    Args:
        plan: knows the role of each matrix.
        blocks: names of the encoder blocks.
        points: the points.

    Raises:
        UsageError: a block has no layer of that role of its own, for example because one layer makes all three; or the
            model is a decoder, whose attention is masked and may share keys between heads.
    """
    known = {("hidden", number): block for number, block in enumerate(blocks)}
    for matrix in plan.matrices:
        for number, block in enumerate(blocks):
            if matrix.module.startswith(f"{block}."):
                known.setdefault((matrix.kind, number), matrix.module)
    modules = {}
    for point in points:
        if plan.profile.causal and point[0] != "hidden":
            raise UsageError("`losses`: the attention of a decoder is not compared. Use logits, hidden or last-hidden.")
        if point not in known:
            raise UsageError(
                f"`losses`: {blocks[point[1]]} has no {point[0]} layer of its own, so its attention cannot be read. "
                "Use logits, hidden or last-hidden, and no part of the teacher's states."
            )
        modules[point] = known[point]
    return modules


def attention_scores(seen: Pass, heads: int, block: int) -> torch.Tensor:
    """Return attention scores before mask and softmax, `q · k / √(d / heads)`, `[B, heads, T, T]` (Vaswani 2017).

    Rotations and biases of positions are omitted, since both models have the same.

    Args:
        seen: a pass that recorded the block's query and key.
        heads: attention heads of the block.
        block: its number.
    """
    return relation(seen.points["query", block], seen.points["key", block], heads)


def relation(left: torch.Tensor, right: torch.Tensor, heads: int) -> torch.Tensor:
    """Return scaled products of all pairs of tokens in each head, `[B, heads, T, T]`.

    Args:
        left: `[B, T, d]`.
        right: `[B, T, d]`.
        heads: number of heads, which divides `d`.
    """
    one, other = (tensor.unflatten(-1, (heads, -1)).transpose(1, 2) for tensor in (left, right))
    return torch.matmul(one, other.mT) / math.sqrt(one.shape[-1])


def attention_maps(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the logarithms of the softmax over real tokens, `[B, heads, T, T]`.

    Args:
        scores: `[B, heads, T, T]`.
        mask: `[B, T]`, 0 or False at padding.
    """
    return scores.masked_fill((mask == 0)[:, None, None, :], -1e4).log_softmax(-1)


def map_divergence(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean over heads and real tokens of KL(softmax of the teacher's scores || of the student's).

    Args:
        student: scores `[B, heads, T, T]`.
        teacher: scores, likewise.
        mask: `[B, T]`, 1 at real tokens.
    """
    log_q, log_p = attention_maps(student, mask), attention_maps(teacher, mask)
    rows = (log_p.exp() * (log_p - log_q)).sum(-1) * mask[:, None, :]
    return rows.sum() / (mask.sum() * student.shape[1])
