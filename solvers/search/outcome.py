"""The result of a method, and the limits on its search."""

import time
from dataclasses import dataclass, field

import numpy as np

from ..model.program import IntArray, Program

TIE_TOLERANCE = 1e-9
"""Plans count as equal if their values differ by less than this share of the value above the least."""


def tie_cutoff(program: Program, cost: float) -> float:
    """Return the largest cost that counts as equal to a given cost; see `TIE_TOLERANCE`.

    Args:
        program: Its least costs and rounding errors.
        cost: Cost of a plan.
    """
    if cost == np.inf:
        return cost
    above = max(cost - float(program.least(program.cost).sum()), 0.0)
    return cost + TIE_TOLERANCE * above + program.rounding(cost)


@dataclass(frozen=True, slots=True)
class SearchLimits:
    """How long to search and how small the gap must become.

    Attributes:
        relative_gap: The search may stop at this proven gap.
        seed: Of the engine's random decisions.
        deadline: When to stop, in seconds on the clock of `time.perf_counter`.
        most_nodes: Of the tree of `milp`: an effort that does not depend on the machine. None is no limit.
    """

    relative_gap: float = 1e-6
    seed: int = 0
    deadline: float = field(default=float("inf"))  # on the clock of time.perf_counter
    most_nodes: int | None = None  # of the tree of `milp`: an effort that does not depend on the machine

    def engine_gap(self) -> float:
        """Return the gap for an engine: much smaller than required, because the engine's costs are shifted."""
        return self.relative_gap * 1e-3 if self.relative_gap <= 1e-6 else self.relative_gap

    def remaining_s(self) -> float:
        """Return the seconds that are left (at least a microsecond, at most infinity)."""
        return max(self.deadline - time.perf_counter(), 1e-6)

    def expired(self) -> bool:
        """Whether the time is over."""
        return time.perf_counter() >= self.deadline


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The result of a search on a `Program`.

    Attributes:
        columns: int [G], one column of each group; None without a plan.
        bound: No plan costs less; infinity if `finished` without a plan.
        finished: False if the time limit stopped the search.
        solver: The method that was used, if it was chosen during the search.
        tie_settled: Whether, of all plans of this cost, this one is known to have the least `tie`.
    """

    columns: IntArray | None = field(repr=False)
    bound: float
    finished: bool
    solver: str = ""
    tie_settled: bool = False
