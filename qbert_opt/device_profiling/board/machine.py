"""The machine that is measured: its name, its caches and memory, and calls that read arrays of growing size."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from ...runtime.cpu_timing import Call

KB = 2**10
STEPS = tuple(16 * KB * 2**step for step in range(16))  # 16 KiB to 512 MiB
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclass(frozen=True)
class Cache:
    """One level of cache, as reported by the operating system."""

    level: int
    size_bytes: int


@dataclass(frozen=True)
class Machine:
    """A machine as the operating system describes it.

    Attributes:
        name: name of its processor.
        caches: data caches of the first core, nearest first; none if the system does not report them.
        memory_bytes: size of its memory.
    """

    name: str
    caches: tuple[Cache, ...]
    memory_bytes: int


def this_machine() -> Machine:
    """Return this machine as the operating system describes it."""
    return Machine(processor_name(), system_caches(), total_memory_bytes())


def ladder_calls(most_bytes: int = STEPS[-1]) -> dict[int, Call]:
    """Return calls that read arrays of growing size, by bytes; all arrays are slices of one array.

    Args:
        most_bytes: size of the largest array.
    """
    sizes = [size for size in STEPS if size <= most_bytes]
    whole = np.ones(sizes[-1] // 4, dtype=np.float32)
    return {size: whole[: size // 4].max for size in sizes}


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


def processor_name() -> str:
    """Return the name that the system reports for the board, or for the processor if it reports no board."""
    for path, line_start in (("/proc/device-tree/model", ""), ("/proc/cpuinfo", "model name")):
        try:
            lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith(line_start) and line.strip():
                return re.sub(r"[^\x20-\x7e]", "", line.split(":", 1)[-1]).strip()[:100]
    return platform.processor() or platform.machine() or "this machine"
