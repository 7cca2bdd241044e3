"""Squared error relative to the target's size, so that blocks, layers and heads of any scale weigh the same."""

from __future__ import annotations

import torch


def relative_error(student: torch.Tensor, teacher: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the weighted squared error relative to the teacher: `Σ w (student - teacher)² / Σ w teacher²`.

    Args:
        student: of any shape.
        teacher: of the same shape.
        weights: broadcast to that shape; 0 at padding.
    """
    error = (weights * (student - teacher).square()).sum()
    return error / (weights * teacher.square()).sum().clamp_min(torch.finfo(torch.float32).tiny)
