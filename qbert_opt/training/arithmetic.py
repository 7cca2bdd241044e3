"""How training computes, and how what it made is measured: as it will be deployed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..models.batches import TokenBatch

Precision = Literal["float32", "bfloat16"]
SHORT = 128  # tokens up to which plain attention is faster on a processor: fused, it took 38 % of a step at 24 tokens
ANY_ATTENTION = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.MATH,
]


@contextmanager
def training_arithmetic(precision: Precision, batches: Sequence[TokenBatch]) -> Iterator[None]:
    """Compute fast inside: plain attention where texts are short, and products as precise as was asked.

    Args:
        precision: `bfloat16` rounds the inputs of float32 matrix products, where the processor has such products.
        batches: the training text.
    """
    short = max(batch.mask.shape[1] for batch in batches) <= SHORT
    with _products("medium" if precision == "bfloat16" else "highest"):
        if short and not torch.cuda.is_available():
            with sdpa_kernel(SDPBackend.MATH):
                yield
        else:
            yield


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Compute inside as `evaluate` does."""
    with _products("highest"), sdpa_kernel(ANY_ATTENTION):
        yield


@contextmanager
def _products(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
