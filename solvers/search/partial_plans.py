"""Exact search without an engine: partial plans, pruned by dominance and by bounds (Nemhauser and Ullmann 1969).

Group after group, every partial plan that may still become the best is kept as (usage of every row, cost). A partial
plan is dropped if it can no longer fit, if another one uses no more of anything and costs no more, or if some
multipliers prove that its completion costs more than the best known plan. Usage and cost stay floats; nothing is
discretized.

The first pass keeps only the most promising partial plans (a beam), which nearly always finds the best plan; later
passes keep more and more of them. If none had to be left out, the plan is proven optimal; otherwise the least bound of
those left out is a bound on every plan.
"""

from dataclasses import dataclass

import numpy as np

from ..model.program import FloatArray, IntArray, Program
from .dominance import undominated
from .outcome import Outcome, SearchLimits, tie_cutoff
from .relaxation import Relaxation

MOST_STATES = 3_000_000
"""Largest number of partial plans kept over all groups in one pass (a few seconds)."""
_WIDTHS = (200, 2_000, 200_000)
"""Largest number of partial plans kept for one group, in each pass."""
_FACTORS = (0.0, 0.5, 0.8, 1.2, 2.0)
_ADDED = (0.01, 0.05, 0.2)
_DRAWN = 24


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """The partial plans kept up to one group: the parent of each, and the column that it added."""

    parent: IntArray
    column: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class _Pass:
    """The result of one pass: a plan or None, and the least bound of the partial plans left out (infinity: none)."""

    plan: IntArray | None
    left_out: float


def close(
    program: Program,
    relaxation: Relaxation,
    plan: IntArray | None,
    cost: float,
    limits: SearchLimits,
    most_states: int = MOST_STATES,
) -> Outcome:
    """Return the best plan below a cost; among equal costs the least `tie` (if it is a row), then the least usage.

    Args:
        program: Without a limit on families.
        relaxation: Its relaxation.
        plan: The best known plan, or None.
        cost: Cost of the known plan, or a cutoff that a plan must stay below, or infinity.
        limits: Time, and the gap at which to stop.
        most_states: Largest number of partial plans to keep in one pass.

    Returns:
        Finished without a plan: there is none below `cost`. Not finished: too many partial plans had to be left out,
        or the time limit stopped the search.
    """
    multipliers = _around(program, relaxation.multipliers)
    bound, settled = relaxation.bound, False
    for width in _WIDTHS:
        search = _Search.below(program, relaxation, multipliers, tie_cutoff(program, cost) + 4 * program.rounding(cost))
        if search is None:
            return Outcome(plan, cost, finished=True)
        searched = search.run(width, limits, most_states)
        if searched.plan is not None:
            its_cost = float(program.cost[searched.plan].sum())
            if its_cost <= tie_cutoff(program, cost):
                plan, cost = searched.plan, min(cost, its_cost)
                settled = any(np.array_equal(row, program.tie) for row in program.rows)
        if searched.left_out == np.inf:
            return Outcome(plan, cost, finished=True, tie_settled=settled)
        bound = max(bound, min(searched.left_out, cost))
        if limits.expired():
            break
        if plan is not None and cost - bound <= limits.engine_gap() * abs(cost):
            return Outcome(plan, bound, finished=True)
    return Outcome(plan, bound, finished=False)


def _around(program: Program, multipliers: FloatArray) -> FloatArray:
    """Return multipliers [K, R]: the best ones, zero, and variations for partial plans of unusual usage."""
    rows = len(multipliers)
    one_by_one = 1 + np.kron(np.eye(rows), np.array(_FACTORS)[:, None] - 1)
    drawn = np.exp(np.random.default_rng(0).normal(0, 0.3, (_DRAWN, rows)))
    together = np.ones((1, rows)) * np.array(_FACTORS)[:, None]
    factors = np.vstack([np.ones((1, rows)), together, one_by_one, drawn])
    # A row with a multiplier of 0 in the relaxation may have a positive one for a partial plan: try some values.
    room = np.maximum(program.rhs - program.least(program.rows).sum(axis=1), 1e-300)
    added = np.kron(np.diag((multipliers * room).max(initial=0.0) / room), np.array(_ADDED)[:, None])
    result: FloatArray = np.vstack([multipliers * factors, multipliers + added])
    return result


@dataclass(frozen=True, slots=True, eq=False)
class _Search:
    """All plans of some columns that cost no more than a ceiling.

    Attributes:
        program: The columns that can be in such a plan.
        columns: Their positions in the whole program.
        multipliers: float [K, R].
        ceiling: Cost.
    """

    program: Program
    columns: IntArray
    multipliers: FloatArray
    ceiling: float

    @classmethod
    def below(
        cls, program: Program, relaxation: Relaxation, multipliers: FloatArray, ceiling: float
    ) -> "_Search | None":
        """Remove columns whose reduced cost proves that no such plan uses them; None if a group has none left."""
        mask = relaxation.reduced <= (ceiling - relaxation.bound) * (1 + 1e-9)
        core = program.keep(mask)
        return None if core is None else cls(core, np.flatnonzero(mask).astype(np.int64), multipliers, ceiling)

    def run(self, width: int, limits: SearchLimits, most_states: int) -> _Pass:
        """Return the best plan of a pass that keeps at most `width` partial plans for each group."""
        program = self.program
        settled, choices = self.groups()
        usage, cost = program.rows[:, settled].sum(axis=1)[:, None], np.array([program.cost[settled].sum()])
        least_rows = self.rest(program.rows, choices)
        least_adjusted = self.rest(program.cost + self.multipliers @ program.rows, choices)
        least_adjusted -= (self.multipliers @ program.rhs)[:, None]
        # Priced usage and limits cancel; their rounding errors must not rule out the best plan.
        most_used = np.abs(program.rhs) + np.maximum.reduceat(np.abs(program.rows), program.starts, axis=1).sum(axis=1)
        least_adjusted -= (len(choices) + 32) * 2.0**-52 * (self.multipliers @ most_used)[:, None]
        layers: list[_Layer] = []
        total, left_out = 0, np.inf
        for depth, columns in enumerate(choices, start=1):
            if total > most_states or limits.expired():
                width = _WIDTHS[0]
            parent = np.repeat(np.arange(len(cost)), len(columns))
            column = np.tile(columns, len(cost))
            usage, cost = usage[:, parent] + program.rows[:, column], cost[parent] + program.cost[column]
            kept = np.flatnonzero((usage + least_rows[:, depth, None] <= program.rhs[:, None]).all(axis=0))
            kept = kept[self.bounds(usage, cost, kept, least_adjusted[:, depth], slice(1)) <= self.ceiling]
            bounds = self.bounds(usage, cost, kept, least_adjusted[:, depth], slice(None))
            kept, bounds = kept[bounds <= self.ceiling], bounds[bounds <= self.ceiling]
            best = undominated(usage[:, kept], cost[kept])
            kept, bounds = kept[best], bounds[best]
            if len(kept) > width:
                order = np.argsort(bounds, kind="stable")
                left_out = min(left_out, float(bounds[order[width]]))
                kept = kept[order[:width]]
            usage, cost = usage[:, kept], cost[kept]
            layers.append(_Layer(parent[kept], column[kept]))
            total += len(cost)
            if not len(cost):
                return _Pass(None, left_out)
        return self.best(layers, usage, cost, settled, left_out)

    def bounds(
        self, usage: FloatArray, cost: FloatArray, which: IntArray, ahead: FloatArray, multipliers: slice
    ) -> FloatArray:
        """Return the highest bound over some of the multipliers on the cost of completing each partial plan."""
        if not len(which):
            return np.zeros(0)
        best: FloatArray = (self.multipliers[multipliers] @ usage[:, which] + ahead[multipliers, None]).max(axis=0)
        return best + cost[which]

    def groups(self) -> tuple[IntArray, list[IntArray]]:
        """Return the columns that are alone in their group, and the columns of each other group, widest usage first."""
        starts = self.program.starts
        sizes = np.diff(starts, append=len(self.program.group))
        parts = np.split(np.arange(len(self.program.group)), starts[1:])
        free = [part for part in parts if len(part) > 1]
        unit = 1 / np.maximum(np.ptp(self.program.rows, axis=1), 1e-300)
        width = np.array([unit @ np.ptp(self.program.rows[:, part], axis=1) for part in free])
        return starts[sizes == 1], [free[index] for index in np.argsort(-width, kind="stable")]

    def rest(self, table: FloatArray, choices: list[IntArray]) -> FloatArray:
        """Return the least sums over the remaining groups, float [rows of the table, depth + 1]."""
        least = np.array([table[:, columns].min(axis=1) for columns in choices]).reshape(len(choices), len(table))
        sums = np.vstack([np.cumsum(least[::-1], axis=0)[::-1], np.zeros((1, len(table)))])
        result: FloatArray = sums.T
        return result

    def best(
        self, layers: list[_Layer], usage: FloatArray, cost: FloatArray, settled: IntArray, left_out: float
    ) -> _Pass:
        """Return the plan of least cost; among equal costs, of least tie and usage."""
        equal = np.flatnonzero(cost <= tie_cutoff(self.program, float(cost.min())))
        rows = self.program.rows
        order = sorted(range(len(rows)), key=lambda row: not np.array_equal(rows[row], self.program.tie))
        state = int(equal[np.lexsort([usage[row, equal] for row in reversed(order)])[0]])
        cheapest = float(cost[state])
        plan = np.full(len(self.program.starts), -1, dtype=np.int64)
        plan[self.program.group[settled]] = settled
        for layer in reversed(layers):
            column = int(layer.column[state])
            plan[self.program.group[column]] = column
            state = int(layer.parent[state])
        # A plan that fits only because of another order of summation is rejected, but others may fit.
        if not self.program.fits(plan):
            return _Pass(None, min(left_out, cheapest))
        return _Pass(self.columns[plan], left_out)
