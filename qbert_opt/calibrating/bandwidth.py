"""The memories of this machine: sizes as the system tells them, speeds as a walk over growing arrays finds them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from hwmodels.measured import MeasuredMemory

from .timing import Call, Timing

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


def memories_of(timings: dict[int, Timing], stream_bytes_per_s: float) -> tuple[MeasuredMemory, ...]:
    """Return the caches and DRAM.

    The last cache counts as far as arrays still come faster than halfway (in the logarithm) between its own speed and
    that of DRAM; on a shared machine that is less than its size.

    Args:
        timings: of `ladder_calls`.
        stream_bytes_per_s: how fast weights come from DRAM beside a product.
    """
    speed = {size: size / timing.median_s for size, timing in timings.items()}
    caches = system_caches() or (Cache(1, _knee(speed)),)
    found = []
    for cache in caches:
        inside = [size for size in STEPS if size <= cache.size_bytes / 2] or [STEPS[0]]
        found.append(MeasuredMemory(f"l{cache.level}", cache.size_bytes, speed[inside[-1]], 0.0))
    last, dram = caches[-1].size_bytes, speed[STEPS[-1]]
    inner = caches[-2].size_bytes if len(caches) > 1 else 0
    own = max((speed[size] for size in STEPS if 2 * inner <= size <= last), default=speed[STEPS[-1]])
    held = [size for size in STEPS if size <= last and (size <= inner or speed[size] >= (own * dram) ** 0.5)]
    found[-1] = MeasuredMemory(f"l{caches[-1].level}", last, own, 0.0, usable=min(1.0, max(held, default=last) / last))
    return (*found, MeasuredMemory("dram", total_memory_bytes(), stream_bytes_per_s, 0.0))


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


def _knee(speed: dict[int, float]) -> int:
    """Return the largest array that comes at more than half of the best speed."""
    return max(size for size, per_s in speed.items() if per_s >= max(speed.values()) / 2)
