"""The memories of this machine: sizes reported by the system, and bandwidths measured on arrays of growing size."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from hwmodels import MeasuredMemory

from ..runtime.cpu_timing import Call, Timing

KB = 2**10
STEPS = tuple(16 * KB * 2**step for step in range(16))  # 16 KiB to 512 MiB
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclass(frozen=True, slots=True)
class Cache:
    """One level of cache, as reported by the operating system."""

    level: int
    size_bytes: int


def ladder_calls() -> dict[int, Call]:
    """Return calls that read arrays of growing size, by bytes; all are slices of one array."""
    whole = np.ones(STEPS[-1] // 4, dtype=np.float32)
    return {size: whole[: size // 4].max for size in STEPS}


def memories_of(timings: Mapping[int, Timing]) -> tuple[MeasuredMemory, ...]:
    """Return the caches, nearest first, and DRAM, with the read bandwidth of one core.

    Args:
        timings: of `ladder_calls`, by bytes.
    """
    speed = {size: size / timing.median_s for size, timing in timings.items()}
    memories = []
    inner = 0
    for cache in system_caches() or (Cache(1, _knee(speed)),):
        inside = [size for size in speed if 2 * inner <= size <= cache.size_bytes / 2] or [min(speed)]
        memories.append(MeasuredMemory(f"l{cache.level}", cache.size_bytes, max(speed[size] for size in inside), 0.0))
        inner = cache.size_bytes
    return (*memories, MeasuredMemory("dram", total_memory_bytes(), speed[max(speed)], 0.0))


def system_caches() -> tuple[Cache, ...]:
    """Return the data caches of the first core, nearest first; none if the system does not report them."""
    sizes_by_level: dict[int, int] = {}
    for folder in sorted(_CACHES.glob("index*")):
        try:
            kind, level, size = ((folder / name).read_text().strip() for name in ("type", "level", "size"))
        except OSError:
            continue
        amount = re.fullmatch(r"(\d+)([KMG]?)", size)
        if kind != "Instruction" and amount:
            sizes_by_level[int(level)] = int(amount[1]) * {"": 1, "K": KB, "M": KB**2, "G": KB**3}[amount[2]]
    sizes = [Cache(level, size) for level, size in sorted(sizes_by_level.items())]
    return tuple(cache for cache, after in pairwise([*sizes, Cache(99, 2**60)]) if cache.size_bytes < after.size_bytes)


def total_memory_bytes() -> int:
    """Return the size of the machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _knee(speed: Mapping[int, float]) -> int:
    """Return the size of the largest array that is read at half the best speed or more."""
    return max(size for size, per_s in speed.items() if per_s >= max(speed.values()) / 2)
