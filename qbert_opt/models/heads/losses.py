"""Losses between the outputs of a model and a reference, row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

ROWS_TOGETHER = 1024  # bounds memory, since rows over a vocabulary are long


class RowLoss(Protocol):
    """A loss between two rows of outputs."""

    @property
    def softmax(self) -> bool:
        """Whether rows are logits of a softmax."""
        ...

    def of_rows(self, reference: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """Return the loss of each row, float64 `[rows]`; both arguments are `[rows, columns]`."""
        ...


class KL:
    """KL(softmax(reference) || softmax(outputs)) in nats."""

    softmax = True

    def of_rows(self, reference: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """Return the divergence of each row, float64 `[rows]`."""
        return kl_divergence(reference, outputs)


@dataclass(frozen=True, slots=True)
class SquaredDistance:
    """Squared distance between two rows.

    Attributes:
        relative: whether it is divided by the squared length of the reference's row.
    """

    relative: bool
    softmax: bool = False

    def of_rows(self, reference: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """Return the distance of each row, float64 `[rows]`."""
        before = reference.double()
        distance: torch.Tensor = (outputs.double() - before).square().sum(-1)
        return distance / before.square().sum(-1) if self.relative else distance

    def scale(self, values: torch.Tensor) -> torch.Tensor:
        """Return the square root of the loss's curvature, float64 `[rows, 1]`: √2, or √2 over each row's length.

        Args:
            values: the reference's rows, `[rows, columns]`.
        """
        if not self.relative:
            return torch.full((len(values), 1), 2**0.5, dtype=torch.float64, device=values.device)
        length: torch.Tensor = values.detach().double().norm(dim=-1, keepdim=True)
        return 2**0.5 / length


def kl_divergence(reference: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """Return KL(softmax(reference) || softmax(outputs)) of each row in nats, float64 `[rows]`.

    Computed in float64, since rounding in float32 would hide small divergences. Results that rounding makes negative
    are set to 0.

    Args:
        reference: logits `[rows, columns]`.
        outputs: logits of the model, `[rows, columns]`.
    """
    parts = zip(torch.split(reference, ROWS_TOGETHER), torch.split(outputs, ROWS_TOGETHER), strict=True)
    return torch.cat([_kl(p.double().log_softmax(-1), q.double().log_softmax(-1)) for p, q in parts])


def cross_entropy(values: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return -log softmax(values) of the correct column of each row in nats, float64 `[rows]`.

    Args:
        values: logits `[rows, columns]`.
        targets: the correct column of each row, int64 `[rows]`.
    """
    parts = zip(torch.split(values, ROWS_TOGETHER), torch.split(targets.to(values.device), ROWS_TOGETHER), strict=True)
    return torch.cat([-q.double().log_softmax(-1).gather(1, right[:, None])[:, 0] for q, right in parts])


def confidence(values: torch.Tensor) -> torch.Tensor:
    """Return the largest probability of each row, float64 `[rows]`.

    Args:
        values: logits `[rows, columns]`.
    """
    return torch.cat([part.double().softmax(-1).max(-1).values for part in torch.split(values, ROWS_TOGETHER)])


def _kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0)
