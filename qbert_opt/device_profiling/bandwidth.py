"""The memories of a machine: sizes from the operating system, and bandwidths measured on arrays of growing size."""

from __future__ import annotations

from collections.abc import Mapping

from hwmodels import MeasuredMemory

from ..runtime.cpu_timing import Timing
from .board.machine import Cache, Machine


def memories_of(timings: Mapping[int, Timing], machine: Machine) -> tuple[MeasuredMemory, ...]:
    """Return the caches, nearest first, and DRAM, with the read bandwidth of one core.

    Args:
        timings: timings of `ladder_calls`, by bytes.
        machine: the machine that was timed.
    """
    speed = {size: size / timing.median_s for size, timing in timings.items()}
    memories = []
    inner = 0
    for cache in machine.caches or (Cache(1, _knee(speed)),):
        inside = [size for size in speed if 2 * inner <= size <= cache.size_bytes / 2] or [min(speed)]
        memories.append(MeasuredMemory(f"l{cache.level}", cache.size_bytes, max(speed[size] for size in inside), 0.0))
        inner = cache.size_bytes
    return (*memories, MeasuredMemory("dram", machine.memory_bytes, speed[max(speed)], 0.0))


def _knee(speed: Mapping[int, float]) -> int:
    """Return the size of the largest array that is read at half the best speed or more."""
    return max(size for size, per_s in speed.items() if per_s >= max(speed.values()) / 2)
