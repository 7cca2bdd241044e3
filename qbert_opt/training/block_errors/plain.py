"""All tokens have the same weight: plain mean squared error."""

from __future__ import annotations

import torch

from ..teacher import Teacher


def token_weights(teacher: Teacher) -> list[list[torch.Tensor]]:
    """Return `[blocks][batches]` tensors `[B, T]`: 1 at real tokens."""
    masks = [batch.mask.float() for batch in teacher.batches]
    return [masks for _ in teacher.blocks]
