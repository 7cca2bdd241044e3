"""Exact search over one capacity: partial plans, thinned by dominance and by bounds (Nemhauser and Ullmann 1969).

Item after item, every partial plan that may still become the best is kept as a pair (usage, cost). A partial plan
goes when another one uses no more and costs no more, when it cannot fit any more, or when one of several Lagrangian
bounds on its completion exceeds the best known plan. No grid is needed: usage and cost stay floats.
"""

from dataclasses import dataclass

import numpy as np

from .outcome import Limits, Outcome
from .program import FloatArray, IntArray, Program
from .relaxation import Relaxation

MOST_STATES = 5_000_000
"""Partial plans kept over all items; beyond, the search gives up and leaves the bound of the relaxation."""
MOST_CANDIDATES = 500_000
"""Partial plans looked at for one item."""
_SPREAD = np.array([0.6, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.6])  # multipliers around the best one


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """Kept partial plans up to one group: where each came from, and the column that it took."""

    parent: IntArray
    column: IntArray


def close_one_row(program: Program, relaxation: Relaxation, plan: IntArray | None, limits: Limits) -> Outcome:
    """Return the best plan of a program with one row; equal costs (to 1e-12) are decided by least usage.

    Args:
        program: One row, no limit on families.
        relaxation: Of this program.
        plan: The best known plan, or None.
        limits: Only the clock is read.
    """
    known = np.inf if plan is None else float(program.cost[plan].sum())
    rounding = 1e-12 * float(np.abs(program.cost).sum() / len(program.starts) + abs(relaxation.bound))
    gap = known + rounding - relaxation.bound
    core = program.keep(relaxation.reduced <= gap * (1 + 1e-9))
    if core is None:
        return Outcome(plan, known, finished=True)
    search = _Search(core, relaxation.multipliers[0] * _SPREAD, known + rounding)
    grown = search.grow(limits)
    if grown is None:
        return Outcome(plan, min(relaxation.bound, known), finished=not limits.expired())
    layers, usage, cost = grown
    if not len(cost):
        return Outcome(plan, known, finished=True)
    equal = np.flatnonzero(cost <= cost.min() + rounding)
    best = search.trace(layers, int(equal[usage[equal].argmin()]))
    index = np.flatnonzero(relaxation.reduced <= gap * (1 + 1e-9))[best]
    return Outcome(index, min(float(cost.min()), float(program.cost[index].sum())), finished=True)


@dataclass(frozen=True, slots=True, eq=False)
class _Search:
    """Groups with a choice left, widest usage first (the bounds then prune best); the others are settled."""

    program: Program
    multipliers: FloatArray
    ceiling: float

    def grow(self, limits: Limits) -> tuple[list[_Layer], FloatArray, FloatArray] | None:
        """Return the layers with usage and cost of the last, or None when there are too many partial plans."""
        program, multipliers = self.program, self.multipliers
        row, limit = program.rows[0], float(program.rhs[0])
        completion = np.minimum.reduceat(program.cost + multipliers[:, None] * row, program.starts, axis=1)
        least = program.least(row)
        settled = self.settled()
        usage, cost = np.array([row[settled].sum()]), np.array([program.cost[settled].sum()])
        free = np.setdiff1d(np.arange(len(least)), program.group[settled])
        rest_usage, rest_cost = float(least[free].sum()), completion[:, free].sum(axis=1)
        layers: list[_Layer] = []
        total = 0
        for columns in self.choices():
            group = program.group[columns[0]]
            rest_usage -= float(least[group])
            rest_cost = rest_cost - completion[:, group]
            total += len(usage)
            if len(usage) * len(columns) > MOST_CANDIDATES or total > MOST_STATES or limits.expired():
                return None
            parent = np.repeat(np.arange(len(usage)), len(columns))
            column = np.tile(columns, len(usage))
            usage, cost = usage[parent] + row[column], cost[parent] + program.cost[column]
            # A sum of floats may exceed by rounding what the exact sum would not.
            fits = usage + rest_usage <= limit + 1e-13 * abs(limit)
            bound = cost + (rest_cost[:, None] - multipliers[:, None] * (limit - usage)).max(axis=0)
            kept = np.flatnonzero(fits & (bound <= self.ceiling))
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
