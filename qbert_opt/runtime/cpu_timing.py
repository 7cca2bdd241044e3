"""Timing on a machine that others use: CPU time of this process, rounds over all calls, medians.

CPU time leaves out the moments at which another process had the core; what it cannot leave out (shared caches, memory
and clock) shows in how far the readings of one call lie apart.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

Call = Callable[[], object]
Key = TypeVar("Key")
LEAST_ROUNDS = 3
SHORTEST_S = 100e-6  # a shorter call is repeated inside one reading, so that the clock's own cost does not count


@dataclass(frozen=True, slots=True)
class Timing:
    """Readings of one call, in seconds."""

    readings_s: tuple[float, ...]

    @property
    def median_s(self) -> float:
        """The reading in the middle."""
        return statistics.median(self.readings_s)

    @property
    def spread(self) -> float:
        """Standard deviation of a reading as a share of the median, from the median absolute deviation."""
        middle_s = self.median_s
        deviations_s = [abs(reading_s - middle_s) for reading_s in self.readings_s]
        return 1.4826 * statistics.median(deviations_s) / middle_s


def reading(call: Call, *, repeats: int = 1) -> float:
    """Return CPU seconds of one call, averaged over `repeats` calls in a row.

    Args:
        call: what is timed.
        repeats: calls in one reading, so that the clock's step does not matter.
    """
    before = time.process_time_ns()
    for _ in range(repeats):
        call()
    return (time.process_time_ns() - before) / repeats * 1e-9


def repeats_for(call: Call) -> int:
    """Warm a call up and return how often one reading has to repeat it.

    Args:
        call: what is timed.
    """
    call()
    return max(1, min(1000, round(SHORTEST_S / max(1e-7, reading(call)))))


class TimeTooShortError(Exception):
    """`LEAST_ROUNDS` readings of every call do not fit into the time limit.

    Attributes:
        needed_s: estimated wall-clock time that they need.
    """

    def __init__(self, needed_s: float) -> None:
        super().__init__(f"{LEAST_ROUNDS} rounds need about {needed_s:.0f} s")
        self.needed_s = needed_s


def time_calls(
    calls: Mapping[Key, Call],
    *,
    rounds: int,
    limit_s: float = math.inf,
    strict: bool = False,
    warm: bool = False,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Key, Timing]:
    """Time every call once per round, so that a slow moment of the machine hits all of them alike.

    Args:
        calls: what to time, by any key.
        rounds: readings of each, at most.
        limit_s: wall-clock time after which no round begins, once there are `LEAST_ROUNDS`.
        strict: whether the limit holds for the first `LEAST_ROUNDS` too.
        warm: whether each reading follows an unread call, which brings its data back into the caches.
        on_step: called with readings done and all readings.

    Raises:
        TimeTooShortError: `LEAST_ROUNDS` do not fit into a strict limit (with a tenth to spare, since a round of an
            otherwise sufficient limit may be slow).
    """
    started = time.monotonic()
    last_s = 1.1 * limit_s if strict else math.inf
    repeats: dict[Key, int] = {}
    for key, call in calls.items():
        repeats[key] = repeats_for(call)
        used_s = time.monotonic() - started
        if used_s > last_s:
            raise TimeTooShortError(used_s * len(calls) / len(repeats) * (1 + LEAST_ROUNDS))
    warmed_s = time.monotonic() - started
    readings: dict[Key, list[float]] = {key: [] for key in calls}
    for done in range(rounds):
        for number, (key, call) in enumerate(calls.items(), 1):
            if warm:
                call()
            readings[key].append(reading(call, repeats=repeats[key]))
            used_s = time.monotonic() - started
            if done < LEAST_ROUNDS and used_s > last_s:
                raise TimeTooShortError(_needed_s(warmed_s, used_s, done + number / len(calls)))
        on_step(done + 1, rounds)
        used_s = time.monotonic() - started
        if done + 1 < LEAST_ROUNDS and _needed_s(warmed_s, used_s, done + 1) > last_s:
            raise TimeTooShortError(_needed_s(warmed_s, used_s, done + 1))
        if done + 1 >= LEAST_ROUNDS and used_s * (done + 2) / (done + 1) > limit_s:
            break
    return {key: Timing(tuple(values)) for key, values in readings.items()}


def _needed_s(warmed_s: float, used_s: float, rounds_done: float) -> float:
    """Return the time of `LEAST_ROUNDS` rounds, if all take as long as those that are done."""
    return warmed_s + (used_s - warmed_s) * LEAST_ROUNDS / rounds_done
