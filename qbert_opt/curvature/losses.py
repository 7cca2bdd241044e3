"""Losses whose true Hessian is taken: that of the labels, or the distance to the float model's own outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..models.batches import TokenBatch
from ..models.outputs import Head, answers
from ..models.targets import NONE, Targets


class BatchLoss(Protocol):
    """A loss that is a sum over the rows of batches."""

    @property
    def model(self) -> nn.Module:
        """The model, in evaluation mode."""
        ...

    def summed(self, batch: TokenBatch) -> torch.Tensor:
        """Return the loss of a batch, summed over its rows, in the graph and twice differentiable.

        Args:
            batch: tokenized texts.
        """
        ...

    def num_rows(self, batch: TokenBatch) -> int:
        """Return the number of rows of a batch that the loss counts.

        Args:
            batch: tokenized texts.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class LabelledLoss:
    """Cross-entropy in nats over labelled rows: samples, words, masked tokens, or starts and ends of spans.

    Attributes:
        model: in evaluation mode.
        head: how its outputs are read; a softmax kind.
        targets: the labels.
    """

    model: nn.Module
    head: Head
    targets: Targets

    def summed(self, batch: TokenBatch) -> torch.Tensor:
        """Return the loss of a batch, summed over its rows, in the graph and twice differentiable."""
        with sdpa_kernel(SDPBackend.MATH):  # the fused attention kernels have no second derivative on a CPU
            outputs = answers(self.head, self.model, batch)
            target = self.targets.of(outputs).to(outputs.values.device)
            return nn.functional.cross_entropy(outputs.values, target, reduction="sum", ignore_index=NONE)

    def num_rows(self, batch: TokenBatch) -> int:
        """Return the number of labelled rows of a batch."""
        mine = torch.isin(self.targets.samples, torch.tensor(batch.indices))
        return int((self.targets.rows[mine] != NONE).sum())


@dataclass(frozen=True, slots=True, eq=False)
class OutputDistance:
    """Distance of the outputs to what the model answers as it is, for outputs without a softmax.

    At the float weights the loss and its gradient are 0, so that its Hessian is the Gauss-Newton matrix.

    Attributes:
        model: in evaluation mode.
        head: how its outputs are read: embeddings or numbers.
    """

    model: nn.Module
    head: Head

    def summed(self, batch: TokenBatch) -> torch.Tensor:
        """Return the loss of a batch, summed over its rows, in the graph and twice differentiable."""
        with sdpa_kernel(SDPBackend.MATH):  # as above
            values = answers(self.head, self.model, batch).values
            return self.head.spec.loss.of_rows(values.detach(), values).sum()

    def num_rows(self, batch: TokenBatch) -> int:
        """Return the number of rows of a batch."""
        return int(self.head.spec.num_rows(batch).sum())
