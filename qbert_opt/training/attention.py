"""Which attention kernels train, and which answer when what was made is measured: those of deployment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..models.batches import TokenBatch

SHORT = 128  # tokens up to which plain attention trains faster on a processor; fused, it took 38 % of a step of 24
ANY = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH]


@contextmanager
def training_attention(batches: Sequence[TokenBatch]) -> Iterator[None]:
    """Attend with plain products inside, where the texts are short and there is no GPU."""
    short = max(batch.mask.shape[1] for batch in batches) <= SHORT
    with sdpa_kernel([SDPBackend.MATH] if short and not torch.cuda.is_available() else ANY):
        yield


@contextmanager
def deployed_attention() -> Iterator[None]:
    """Attend inside as outside of training."""
    with sdpa_kernel(ANY):
        yield
