"""The attention kernels used in training, and in measurements during training (those of deployment)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from ..models.attention import FusedAttention, UnfusedAttention
from ..models.batches import TokenBatch

SHORT = 128  # up to this many tokens plain attention trains faster on a CPU; fused took 38 % of a step at 24 tokens


@contextmanager
def training_attention(batches: Sequence[TokenBatch]) -> Iterator[None]:
    """Use unfused attention inside the context if no text has more than `SHORT` tokens and there is no GPU.

    Args:
        batches: the training text.
    """
    short = max(batch.mask.shape[1] for batch in batches) <= SHORT
    with UnfusedAttention() if short and not torch.cuda.is_available() else FusedAttention():
        yield


@contextmanager
def deployed_attention() -> Iterator[None]:
    """Use the same attention kernels inside the context as in deployment."""
    with FusedAttention():
        yield
