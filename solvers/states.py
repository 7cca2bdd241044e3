"""Exact search without an engine: partial plans, thinned by dominance and by bounds (Nemhauser and Ullmann 1969).

Group after group, every partial plan that may still become the best is kept as (usage of every row, cost). A partial
plan goes when it cannot fit any more, when another one uses no more of anything and costs no more, or when some
multipliers say that its completion costs more than the ceiling. No grid is needed: usage and cost stay floats.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .outcome import Limits, Outcome, tie_cutoff
from .program import FloatArray, IntArray, Program
from .relaxation import Relaxation

MOST_STATES = 5_000_000
"""Partial plans kept for one row over all groups; beyond, the search gives up and leaves the bound that it has."""
MOST_STATES_OF_SEVERAL_ROWS = 400_000
MOST_CANDIDATES = 200_000
"""Partial plans looked at for one group."""
_RIVALS = 200  # cheapest partial plans that others are held against, where there are several rows
_BLOCK = 256
_SHARES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)  # of the distance between bound and known plan
_FACTORS = (0.0, 0.5, 0.8, 1.2, 2.0)
_DRAWN = 24


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """Kept partial plans up to one group: where each came from, and the column that it took."""

    parent: IntArray
    column: IntArray


def close(
    program: Program,
    relaxation: Relaxation,
    plan: IntArray | None,
    cost: float,
    limits: Limits,
    most_states: int | None = None,
) -> Outcome:
    """Return the best plan below a cost; equal costs are decided by `tie` where it is a row, then by least usage.

    The search first looks only a little above the bound: a plan found there is the best one, and the states grow
    fast with that distance.

    Args:
        program: Without a limit on families.
        relaxation: Of this program.
        plan: The best known plan, or None.
        cost: Its cost, or a cutoff that a plan must stay below, or infinity.
        limits: Only the clock is read.
        most_states: Where to give up; None for what takes some seconds.

    Returns:
        `finished` without a plan (of its own or known) means that there is none below `cost`; not finished means
        that the search gave up at the bound that it has reached.
    """
    if most_states is None:
        most_states = MOST_STATES if len(program.rhs) == 1 else MOST_STATES_OF_SEVERAL_ROWS
    multipliers = _around(relaxation.multipliers)
    bound = relaxation.bound
    rounding = 1e-12 * float(np.abs(program.cost).sum() / len(program.starts) + abs(bound))
    for ceiling in _ceilings(program, relaxation.bound, cost):
        search = _Search.below(program, relaxation, multipliers, tie_cutoff(program, ceiling) + rounding)
        found = None if search is None else search.run(limits, most_states)
        if search is not None and found is None:
            return Outcome(plan, min(bound, cost), finished=False)
        if found is not None and len(found):
            settled = any(np.array_equal(row, program.tie) for row in program.rows)
            return Outcome(found, float(program.cost[found].sum()), finished=True, tie_settled=settled)
        bound = max(bound, min(ceiling, cost))
    return Outcome(plan, cost, finished=True)


def _ceilings(program: Program, bound: float, cost: float) -> Iterator[float]:
    """Yield costs up to which to look, the last one no lower than any plan below `cost`."""
    if np.isfinite(cost):
        yield from (bound + share * (cost - bound) for share in _SHARES)
        return
    dearest = -float(program.least(-program.cost).sum())
    yield from (bound + 10.0**power * max(dearest - bound, 0.0) for power in range(-5, 1))


def _around(multipliers: FloatArray) -> FloatArray:
    """Return multipliers [K, R]: none, the best ones, and others about them for plans of unusual usage."""
    rows = len(multipliers)
    one_by_one = 1 + np.kron(np.eye(rows), np.array(_FACTORS)[:, None] - 1)
    drawn = np.exp(np.random.default_rng(0).normal(0, 0.3, (_DRAWN, rows)))
    together = np.ones((1, rows)) * np.array(_FACTORS)[:, None]
    factors: FloatArray = np.vstack([together, np.ones((1, rows)), one_by_one, drawn])
    return multipliers * factors


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
        """Leave out columns whose reduced cost says that they are in no such plan; None when a group has none left."""
        mask = relaxation.reduced <= (ceiling - relaxation.bound) * (1 + 1e-9)
        core = program.keep(mask)
        return None if core is None else cls(core, np.flatnonzero(mask).astype(np.int64), multipliers, ceiling)

    def run(self, limits: Limits, most_states: int) -> IntArray | None:
        """Return the best plan, an empty array when there is none, None when there are too many partial plans."""
        program = self.program
        rows, rhs = program.rows, program.rhs[:, None]
        settled, choices = self.groups()
        usage, cost = rows[:, settled].sum(axis=1)[:, None], np.array([program.cost[settled].sum()])
        adjusted = program.cost + self.multipliers @ rows
        least_rows, least_adjusted = self.rest(rows, choices), self.rest(adjusted, choices)
        offset = self.multipliers @ program.rhs
        layers: list[_Layer] = []
        total = 0
        for depth, columns in enumerate(choices, start=1):
            if len(cost) * len(columns) > MOST_CANDIDATES or total > most_states or limits.expired():
                return None
            parent = np.repeat(np.arange(len(cost)), len(columns))
            column = np.tile(columns, len(cost))
            usage, cost = usage[:, parent] + rows[:, column], cost[parent] + program.cost[column]
            kept = np.flatnonzero((usage + least_rows[:, depth, None] <= rhs).all(axis=0))
            usage, cost = usage[:, kept], cost[kept]
            ahead = (least_adjusted[:, depth] - offset)[:, None]
            able = np.flatnonzero((self.multipliers @ usage + ahead).max(axis=0) + cost <= self.ceiling)
            able = able[_undominated(usage[:, able], cost[able])]
            usage, cost, kept = usage[:, able], cost[able], kept[able]
            layers.append(_Layer(parent[kept], column[kept]))
            total += len(cost)
            if not len(cost):
                break
        return self.best(layers, usage, cost, settled)

    def groups(self) -> tuple[IntArray, list[IntArray]]:
        """Return the columns that are alone in their group, and those of each other group, widest usage first."""
        starts = self.program.starts
        sizes = np.diff(starts, append=len(self.program.group))
        parts = np.split(np.arange(len(self.program.group)), starts[1:])
        free = [part for part in parts if len(part) > 1]
        unit = 1 / np.maximum(np.ptp(self.program.rows, axis=1), 1e-300)
        width = np.array([unit @ np.ptp(self.program.rows[:, part], axis=1) for part in free])
        return starts[sizes == 1], [free[index] for index in np.argsort(-width, kind="stable")]

    def rest(self, table: FloatArray, choices: list[IntArray]) -> FloatArray:
        """Return the least sums over the groups that are still ahead, float [rows of the table, depth + 1]."""
        least = np.array([table[:, columns].min(axis=1) for columns in choices]).reshape(len(choices), len(table))
        sums = np.vstack([np.cumsum(least[::-1], axis=0)[::-1], np.zeros((1, len(table)))])
        result: FloatArray = sums.T
        return result

    def best(self, layers: list[_Layer], usage: FloatArray, cost: FloatArray, settled: IntArray) -> IntArray | None:
        """Return the plan of least cost, then of least tie and usage; None when it fits only within rounding."""
        if not len(cost) or cost.min() > self.ceiling:
            return np.zeros(0, dtype=np.int64)
        equal = np.flatnonzero(cost <= tie_cutoff(self.program, float(cost.min())))
        rows = self.program.rows
        order = sorted(range(len(rows)), key=lambda row: not np.array_equal(rows[row], self.program.tie))
        state = int(equal[np.lexsort([usage[row, equal] for row in reversed(order)])[0]])
        plan = np.full(len(self.program.starts), -1, dtype=np.int64)
        plan[self.program.group[settled]] = settled
        for layer in reversed(layers):
            column = int(layer.column[state])
            plan[self.program.group[column]] = column
            state = int(layer.parent[state])
        return self.columns[plan] if self.program.fits(plan) else None


def _undominated(usage: FloatArray, cost: FloatArray) -> IntArray:
    """Return partial plans without those that another one beats or equals in everything.

    With one row, all of them are found; with several, those that one of the cheapest beats, which is most.
    """
    order = np.lexsort((*usage[::-1], cost))
    if len(order) < 2 or not len(usage):
        return order[:1] if not len(usage) else order
    if len(usage) == 1:
        lowest = np.minimum.accumulate(usage[0, order])
        first: IntArray = order[np.concatenate([[True], lowest[1:] < lowest[:-1]])]
        return first
    ordered = usage[:, order]
    kept = np.ones(len(order), dtype=bool)
    rivals = ordered[:, :0]
    for start in range(0, len(order), _BLOCK):
        block = ordered[:, start : start + _BLOCK]
        width = block.shape[1]
        beaten = np.tri(width, k=-1, dtype=bool).T if rivals.shape[1] < _RIVALS else np.zeros((0, width), dtype=bool)
        against = np.concatenate([rivals, block], axis=1) if len(beaten) else rivals
        beaten = np.concatenate([np.ones((rivals.shape[1], width), dtype=bool), beaten])
        for theirs, own in zip(against, block, strict=True):
            beaten &= theirs[:, None] <= own
        alive = ~beaten.any(axis=0)
        kept[start : start + _BLOCK] = alive
        if rivals.shape[1] < _RIVALS:
            rivals = np.concatenate([rivals, block[:, alive]], axis=1)
    result: IntArray = order[kept]
    return result
