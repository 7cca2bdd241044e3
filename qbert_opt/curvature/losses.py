"""The loss that a model was trained with; the true Hessian is that of this loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..models.batches import TokenBatch
from ..models.outputs import Head, answers
from ..models.targets import NONE, Targets


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
