"""What a method hands back, and how long it may take."""

import time
from dataclasses import dataclass, field

import numpy as np

from ..model.program import IntArray, Program

TIE_TOLERANCE = 1e-9
"""Plans whose values differ by less than this part of the value (above its least) count as equal."""


def tie_cutoff(program: Program, cost: float) -> float:
    """Return the cost up to which a plan counts as equal to one of this cost."""
    if cost == np.inf:
        return cost
    above = max(cost - float(program.least(program.cost).sum()), 0.0)
    return cost + TIE_TOLERANCE * above + program.rounding(cost)


@dataclass(frozen=True, slots=True)
class SearchLimits:
    """How long to search and how small the gap must become."""

    relative_gap: float = 1e-6
    seed: int = 0
    deadline: float = field(default=float("inf"))  # on the clock of time.perf_counter
    most_nodes: int | None = None  # of the tree of `milp`: an effort that does not depend on the machine

    def engine_gap(self) -> float:
        """Return the gap for an engine: well inside the required one, since costs are shifted."""
        return self.relative_gap * 1e-3 if self.relative_gap <= 1e-6 else self.relative_gap

    def remaining_s(self) -> float:
        """Return the seconds that are left (at least a microsecond, at most infinity)."""
        return max(self.deadline - time.perf_counter(), 1e-6)

    def expired(self) -> bool:
        """Say whether the time is over."""
        return time.perf_counter() >= self.deadline


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What was found for a `Program`.

    Attributes:
        columns: One column of each group, or None when no plan was found.
        bound: No plan costs less; infinity when `finished` without a plan.
        finished: The search came to its own end; False when it was stopped by the clock.
        solver: The method that was used, where it was chosen on the way.
        tie_settled: Of all plans of this cost, this one has least `tie`.
    """

    columns: IntArray | None = field(repr=False)
    bound: float
    finished: bool
    solver: str = ""
    tie_settled: bool = False
