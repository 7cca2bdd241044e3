"""Losses between the student's and the teacher's outputs and hidden states, in the graph."""

from __future__ import annotations

import torch

from ..models.outputs import SOFTMAX_KINDS, Outputs

TEMPERATURE = 2.0


def answer_loss(student: Outputs, teacher: Outputs, temperature: float = TEMPERATURE) -> torch.Tensor:
    """Return the mean over rows of KL(teacher || student) at a temperature, times its square (Hinton et al. 2015).

    For outputs that are not logits, it is the squared distance relative to the teacher's mean square.

    Args:
        student: outputs for a batch.
        teacher: the teacher's outputs for the same batch.
        temperature: of both softmaxes.
    """
    if student.kind not in SOFTMAX_KINDS:
        return relative_error(student.values, teacher.values, torch.ones(len(student.values)))
    log_q = (student.values / temperature).log_softmax(-1)
    log_p = (teacher.values / temperature).log_softmax(-1)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def relative_error(student: torch.Tensor, teacher: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the weighted squared error relative to the teacher: `Σ w ‖student - teacher‖² / Σ w ‖teacher‖²`.

    Args:
        student: `[..., d]`.
        teacher: `[..., d]`.
        weights: `[...]`, 0 at padding.
    """
    error = (weights * (student - teacher).square().sum(-1)).sum()
    return error / (weights * teacher.square().sum(-1)).sum().clamp_min(torch.finfo(torch.float32).tiny)
