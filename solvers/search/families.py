"""Plans with at most k families: bound all sets of k families at once, then solve set by set, best bound first."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from ..model.program import NO_FAMILY, FloatArray, IntArray, Program, columns_in
from .outcome import Outcome, SearchLimits, tie_cutoff
from .presolve import drop_unfitting
from .relaxation import relax, sum_rounding

MOST_SETS = 20_000
"""With more sets than this, an engine solves the program with one switch per family."""

_ALL = slice(None)

Closer = Callable[[Program, float], Outcome]
"""Best plan below a cutoff, without families."""
TieBreaker = Callable[[Program, float, bool], IntArray | None]
"""Plan of a given cost that uses least of the tie-breaking resource; True if the known plan is not in the program."""


def countable(program: Program) -> bool:
    """Whether there is a limit on families, and few enough sets of families to bound each of them.

    Args:
        program: Its families and `max_families`.
    """
    if program.max_families is None:
        return False
    return math.comb(len(_kinds(program)), program.max_families) <= MOST_SETS


def prove_by_sets(program: Program, limits: SearchLimits, close: Closer, tie: TieBreaker | None = None) -> Outcome:
    """Return the best plan over all sets of `max_families` families.

    Every plan with at most k families lies in some set of exactly k, where it needs no limit on families.

    Args:
        program: With a limit on families that is `countable`.
        limits: Time and gap.
        close: Finds the best plan below a cutoff, without families.
        tie: Finds the plan of a given cost with the least use of the tie-breaking resource; None leaves ties.
    """
    table = _FamilyTable.of(program)
    relaxation = relax(program, oracle=table.least_plan)
    if relaxation.infeasible:
        return Outcome(None, np.inf, finished=True)
    bounds = table.bounds(program, relaxation.multipliers)
    open_sets = np.ones(len(bounds), dtype=bool)
    best: IntArray | None = None
    best_cost, lowest, finished = np.inf, np.inf, True
    while open_sets.any():
        waiting = np.flatnonzero(open_sets)
        index = int(waiting[bounds[waiting].argmin()])
        enough = best_cost - limits.engine_gap() * abs(best_cost) if best is not None else np.inf
        if bounds[index] >= enough or limits.expired():
            lowest, finished = min(lowest, float(bounds[index])), finished and bool(bounds[index] >= enough)
            break
        open_sets[index] = False
        part = _restrict(program, table.sets[index])
        if part is None:
            continue
        # Multipliers that are good for one set are good for similar sets, and often rule out hundreds of them.
        multipliers = relax(part).multipliers
        doubtful = np.flatnonzero(bounds < enough)
        bounds[doubtful] = np.maximum(bounds[doubtful], table.bounds(program, multipliers, doubtful))
        if bounds[index] >= enough:
            lowest = min(lowest, float(bounds[index]))
            continue
        outcome = close(part, best_cost)
        lowest, finished = min(lowest, max(outcome.bound, float(bounds[index]))), finished and outcome.finished
        if outcome.columns is not None:
            best = columns_in(program, part, outcome.columns)
            best_cost = float(program.cost[best].sum())
    if best is not None and finished and tie is not None:
        equal = bounds <= tie_cutoff(program, best_cost)
        best = _least_tie(program, best, table.sets[equal], tie)
    return Outcome(best, min(lowest, best_cost), finished)


def _kinds(program: Program) -> list[int]:
    return sorted(set(program.family.tolist()) - {NO_FAMILY})


def _restrict(program: Program, members: IntArray) -> Program | None:
    part = replace(program, max_families=None).keep(np.isin(program.family, [*members.tolist(), NO_FAMILY]))
    return None if part is None else drop_unfitting(part)


def _least_tie(program: Program, best: IntArray, sets: IntArray, tie: TieBreaker) -> IntArray:
    for members in sets:
        part = _restrict(program, members)
        elsewhere = not set(program.family[best].tolist()) <= {*members.tolist(), NO_FAMILY}
        plan = None if part is None else tie(part, float(program.cost[best].sum()), elsewhere)
        if part is not None and plan is not None and part.tie[plan].sum() < program.tie[best].sum():
            best = columns_in(program, part, plan)
    return best


@dataclass(frozen=True, slots=True, eq=False)
class _FamilyTable:
    """The columns of each family, and all sets of k families.

    Attributes:
        sets: int [S, k], family numbers.
        positions: int [S, k], the same as positions in `order`; the last position stands for no family.
        slot: int [N], group × (F + 1) + position of the family: where a column's cost is gathered.
        groups: G.
        kinds: F.
    """

    sets: IntArray
    positions: IntArray
    slot: IntArray
    groups: int
    kinds: int

    @classmethod
    def of(cls, program: Program) -> "_FamilyTable":
        kinds = _kinds(program)
        most = len(kinds) if program.max_families is None else program.max_families
        positions = np.array(list(combinations(range(len(kinds)), most)), dtype=np.int64)
        position = np.searchsorted(kinds, program.family)
        position[program.family == NO_FAMILY] = len(kinds)
        slot = program.group * (len(kinds) + 1) + position
        return cls(np.array(kinds)[positions], positions, slot, int(program.group[-1]) + 1, len(kinds))

    def _gather(self, cost: FloatArray) -> FloatArray:
        """Return the least cost of each group in each family, float [F + 1, G]; infinity where it has none."""
        least = np.full(self.groups * (self.kinds + 1), np.inf)
        np.minimum.at(least, self.slot, cost)
        return least.reshape(self.groups, self.kinds + 1).T

    def totals(self, cost: FloatArray, which: IntArray | slice = _ALL) -> FloatArray:
        """Return the least total of each set, or of some sets, float [S]."""
        least, positions = self._gather(cost), self.positions[which]
        totals = np.empty(len(positions))
        for first in range(0, len(totals), 2000):
            block = positions[first : first + 2000]
            best = np.broadcast_to(least[-1], (len(block), self.groups))
            for member in block.T:
                best = np.minimum(best, least[member])
            totals[first : first + 2000] = best.sum(axis=1)
        return totals

    def least_plan(self, cost: FloatArray) -> IntArray:
        """Return the plan of least cost over all sets."""
        chosen = self.positions[int(self.totals(cost).argmin())]
        allowed = np.isin(self.slot % (self.kinds + 1), [*chosen.tolist(), self.kinds])
        group = self.slot // (self.kinds + 1)
        index = np.flatnonzero(allowed)
        order = index[np.lexsort((cost[index], group[index]))]
        first: IntArray = order[np.flatnonzero(np.diff(group[order], prepend=-1))]
        return first

    def bounds(self, program: Program, multipliers: FloatArray, which: IntArray | slice = _ALL) -> FloatArray:
        """Return the Lagrangian bound of each set, or of some sets, at the same multipliers, float [S]."""
        totals = self.totals(program.cost + multipliers @ program.rows, which)
        most_used = np.maximum.reduceat(program.rows, program.starts, axis=1).sum(axis=1)
        size = program.magnitude() + float(multipliers @ (most_used + np.abs(program.rhs)))
        return totals - float(multipliers @ program.rhs) - sum_rounding(len(multipliers)) * size
