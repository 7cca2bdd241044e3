"""Exact search over one capacity: partial plans, thinned by dominance and by bounds (Nemhauser and Ullmann 1969).

Item after item, every partial plan that may still become the best is kept as a pair (usage, cost). A partial plan
goes when another one uses no more and costs no more, when it cannot fit any more, or when the hull of the items ahead
says that its completion costs more than the best known plan. No grid is needed: usage and cost stay floats.
"""

from dataclasses import dataclass

import numpy as np

from .hull import hull_of
from .outcome import Limits, Outcome
from .program import FloatArray, IntArray, Program
from .relaxation import Relaxation

MOST_STATES = 5_000_000
"""Partial plans kept over all items; beyond, the search gives up and leaves the bound of the relaxation."""
MOST_CANDIDATES = 500_000
"""Partial plans looked at for one item."""
_SHARES = (1 / 32, 1 / 8, 1 / 2, 1.0)  # of the distance between bound and known plan


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """Kept partial plans up to one group: where each came from, and the column that it took."""

    parent: IntArray
    column: IntArray


def close_one_row(program: Program, relaxation: Relaxation, plan: IntArray | None, limits: Limits) -> Outcome:
    """Return the best plan of a program with one row; equal costs (to 1e-12) are decided by least usage.

    The search first looks only a little above the bound: a plan found there is the best one, and the states grow
    fast with that distance.

    Args:
        program: One row, no limit on families.
        relaxation: Of this program.
        plan: The best known plan, or None.
        limits: Only the clock is read.
    """
    known = np.inf if plan is None else float(program.cost[plan].sum())
    rounding = 1e-12 * float(np.abs(program.cost).sum() / len(program.starts) + abs(relaxation.bound))
    gap = known - relaxation.bound
    bound = relaxation.bound
    for share in _SHARES if np.isfinite(gap) else (1.0,):
        ceiling = relaxation.bound + share * gap + rounding
        found = _below(program, relaxation, ceiling, rounding, limits)
        if found is None:
            return Outcome(plan, min(bound, known), finished=not limits.expired())
        if len(found):
            return Outcome(found, float(program.cost[found].sum()), finished=True)
        bound = ceiling
    return Outcome(plan, known, finished=True)


def _below(
    program: Program, relaxation: Relaxation, ceiling: float, rounding: float, limits: Limits
) -> IntArray | None:
    """Return the best plan of at most this cost, an empty array when there is none, None when it takes too long."""
    mask = relaxation.reduced <= (ceiling - relaxation.bound) * (1 + 1e-9)
    core = program.keep(mask)
    nothing = np.zeros(0, dtype=np.int64)
    if core is None:
        return nothing
    search = _Search(core, ceiling)
    grown = search.grow(limits)
    if grown is None:
        return None
    layers, usage, cost = grown
    if not len(cost):
        return nothing
    equal = np.flatnonzero(cost <= cost.min() + rounding)
    best = search.trace(layers, int(equal[usage[equal].argmin()]))
    return np.flatnonzero(mask)[best].astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class _Search:
    """Groups with a choice left, widest usage first (the bounds then prune best); the others are settled."""

    program: Program
    ceiling: float

    def grow(self, limits: Limits) -> tuple[list[_Layer], FloatArray, FloatArray] | None:
        """Return the layers with usage and cost of the last, or None when there are too many partial plans."""
        program = self.program
        row, limit = program.rows[0], float(program.rhs[0])
        limit += 1e-13 * abs(limit)  # a sum of floats may exceed by rounding what the exact sum would not
        hull = hull_of(program)
        settled = self.settled()
        usage, cost = np.array([row[settled].sum()]), np.array([program.cost[settled].sum()])
        ahead = np.ones(len(program.starts), dtype=bool)
        ahead[program.group[settled]] = False
        layers: list[_Layer] = []
        total = 0
        for columns in self.choices():
            ahead[program.group[columns[0]]] = False
            total += len(usage)
            if len(usage) * len(columns) > MOST_CANDIDATES or total > MOST_STATES or limits.expired():
                return None
            parent = np.repeat(np.arange(len(usage)), len(columns))
            column = np.tile(columns, len(usage))
            usage, cost = usage[parent] + row[column], cost[parent] + program.cost[column]
            rest_usage, rest_cost = hull.rest(program, ahead)
            left = limit - usage
            bound = cost + np.interp(left, rest_usage, rest_cost)
            kept = np.flatnonzero((left >= rest_usage[0]) & (bound <= self.ceiling))
            kept = kept[_undominated(usage[kept], cost[kept])]
            usage, cost = usage[kept], cost[kept]
            layers.append(_Layer(parent[kept], column[kept]))
            if not len(usage):
                break
        return layers, usage, cost

    def settled(self) -> IntArray:
        """Return the columns that are alone in their group."""
        starts = self.program.starts
        alone: IntArray = starts[np.diff(starts, append=len(self.program.group)) == 1]
        return alone

    def choices(self) -> list[IntArray]:
        """Return the columns of each group with several, widest usage first."""
        parts = np.split(np.arange(len(self.program.group)), self.program.starts[1:])
        free = [part for part in parts if len(part) > 1]
        width = np.array([np.ptp(self.program.rows[0, part]) for part in free])
        return [free[index] for index in np.argsort(-width, kind="stable")]

    def trace(self, layers: list[_Layer], state: int) -> IntArray:
        """Return the plan that ends in this state of the last layer."""
        plan = np.full(len(self.program.starts), -1, dtype=np.int64)
        settled = self.settled()
        plan[self.program.group[settled]] = settled
        for layer in reversed(layers):
            column = int(layer.column[state])
            plan[self.program.group[column]] = column
            state = int(layer.parent[state])
        return plan


def _undominated(usage: FloatArray, cost: FloatArray) -> IntArray:
    """Return the indices of the pairs that no other pair beats in both, by rising usage."""
    if not len(usage):
        return np.zeros(0, dtype=np.int64)
    order = np.lexsort((cost, usage))
    lowest = np.minimum.accumulate(cost[order])
    kept: IntArray = order[np.concatenate([[True], lowest[1:] < lowest[:-1]])]
    return kept
