"""OpenVINO, with activations rounded as `export --activations` does."""

from __future__ import annotations

import math

from ...formats.affine import container_bits
from ..engine_bench import PRECISIONS, EngineBench

GROUP_BYTES = 12  # scale, zero point and remainder of a group, as floats; see benchmarks/devices/held_memory.py
BESIDE_BITS = 1  # approximate overhead per code of a packed matrix


def bench(precision: str) -> EngineBench:
    """Return the bench of one precision.

    Args:
        precision: how inputs of products are rounded, one of `PRECISIONS`.
    """
    return EngineBench("openvino", next(name for name in PRECISIONS if name == precision), held_bits)


def held_bits(bits: int, group_size: int | None) -> int:
    """Return the bits per weight in memory while the engine runs: codes, ranges and overhead.

    Args:
        bits: width of a stored code.
        group_size: inputs per group; None for one range per row.
    """
    ranges = 0 if group_size is None else math.ceil(8 * GROUP_BYTES / group_size)
    return container_bits(bits) + BESIDE_BITS + ranges
