"""Which attention kernels are used in training, and in measurements during training (those of deployment)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..models.batches import TokenBatch

SHORT = 128  # up to this many tokens plain attention trains faster on a CPU; fused took 38 % of a step at 24 tokens
ANY = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH]


@contextmanager
def training_attention(batches: Sequence[TokenBatch]) -> Iterator[None]:
    """Use unfused attention inside the context if the texts are short and there is no GPU."""
    short = max(batch.mask.shape[1] for batch in batches) <= SHORT
    with sdpa_kernel([SDPBackend.MATH] if short and not torch.cuda.is_available() else ANY):
        yield


@contextmanager
def deployed_attention() -> Iterator[None]:
    """Use the same attention kernels inside the context as in deployment."""
    with sdpa_kernel(ANY):
        yield
