"""OpenVINO, with activations rounded as `export --activations` says."""

from __future__ import annotations

import math

from ...formats.affine import container_bits
from ..engine_bench import PRECISIONS, EngineBench

GROUP_BYTES = 12  # scale, zero point and rest of a group as floats; benchmarks/held_memory.py
BESIDE_BITS = 1  # about what is held beside the codes of every packed matrix


def bench(precision: str) -> EngineBench:
    """Return the bench with activations of one of `PRECISIONS`."""
    return EngineBench("openvino", next(known for known in PRECISIONS if known == precision), held_bits)


def held_bits(bits: int, group_size: int | None) -> int:
    """Return the bits of a weight in memory while the engine runs: codes, ranges and what it keeps beside them."""
    ranges = 0 if group_size is None else math.ceil(8 * GROUP_BYTES / group_size)
    return container_bits(bits) + BESIDE_BITS + ranges
