"""The memories of this machine: sizes as the system tells them, speeds as a walk over growing arrays finds them."""

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
    """One level as the operating system describes it."""

    level: int
    size_bytes: int


def ladder_calls() -> dict[int, Call]:
    """Return reads of arrays of growing size, by bytes; all are slices of one."""
    whole = np.ones(STEPS[-1] // 4, dtype=np.float32)
    return {size: whole[: size // 4].max for size in STEPS}


def memories_of(timings: Mapping[int, Timing]) -> tuple[MeasuredMemory, ...]:
    """Return the caches, nearest first, and DRAM, with the speed at which one core reads them."""
    speed = {size: size / timing.median_s for size, timing in timings.items()}
    found = []
    inner = 0
    for cache in system_caches() or (Cache(1, _knee(speed)),):
        inside = [size for size in speed if 2 * inner <= size <= cache.size_bytes / 2] or [min(speed)]
        found.append(MeasuredMemory(f"l{cache.level}", cache.size_bytes, max(speed[size] for size in inside), 0.0))
        inner = cache.size_bytes
    return (*found, MeasuredMemory("dram", total_memory_bytes(), speed[max(speed)], 0.0))


def system_caches() -> tuple[Cache, ...]:
    """Return the data caches of the first core, nearest first; none where the system does not tell."""
    found: dict[int, int] = {}
    for folder in sorted(_CACHES.glob("index*")):
        try:
            kind, level, size = ((folder / name).read_text().strip() for name in ("type", "level", "size"))
        except OSError:
            continue
        amount = re.fullmatch(r"(\d+)([KMG]?)", size)
        if kind != "Instruction" and amount:
            found[int(level)] = int(amount[1]) * {"": 1, "K": KB, "M": KB**2, "G": KB**3}[amount[2]]
    sizes = [Cache(level, size) for level, size in sorted(found.items())]
    return tuple(cache for cache, after in pairwise([*sizes, Cache(99, 2**60)]) if cache.size_bytes < after.size_bytes)


def total_memory_bytes() -> int:
    """Return the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _knee(speed: Mapping[int, float]) -> int:
    """Return the largest array that comes at more than half of the best speed."""
    return max(size for size, per_s in speed.items() if per_s >= max(speed.values()) / 2)
