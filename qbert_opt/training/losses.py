"""How far the student's answers and hidden states are from the teacher's, in the graph."""

from __future__ import annotations

import torch

from ..models.outputs import SOFTMAX_KINDS, Outputs

TEMPERATURE = 2.0


def answer_loss(found: Outputs, wanted: Outputs, temperature: float = TEMPERATURE) -> torch.Tensor:
    """Mean over rows of KL(teacher || student) at a temperature, times its square (Hinton et al. 2015).

    Outputs that are no logits lose their squared distance, relative to the teacher's mean square.
    """
    if found.kind not in SOFTMAX_KINDS:
        return relative_error(found.values, wanted.values, torch.ones(len(found.values)))
    log_q = (found.values / temperature).log_softmax(-1)
    log_p = (wanted.values / temperature).log_softmax(-1)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def relative_error(found: torch.Tensor, wanted: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted squared error over weighted square: `Σ w ‖found - wanted‖² / Σ w ‖wanted‖²`.

    Args:
        found: `[..., d]`.
        wanted: `[..., d]`.
        weights: `[...]`, 0 where nothing counts, as at padding.
    """
    error = (weights * (found - wanted).square().sum(-1)).sum()
    return error / (weights * wanted.square().sum(-1)).sum().clamp_min(torch.finfo(torch.float32).tiny)
