"""Exact solutions: a bound, a good plan, and a search among the few columns that could still improve it.

A column whose reduced cost exceeds the gap between bound and plan cannot be in a better plan (reduced-cost fixing).
This leaves a core of a few hundred columns for the search over partial plans or for an engine.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from ..model.program import IntArray, Program, columns_in
from . import families, partial_plans
from .incumbent import incumbent
from .outcome import Outcome, SearchLimits, tie_cutoff
from .presolve import cheapest, drop_unfitting
from .relaxation import Relaxation, relax
from .scaled_engine import Engine, search

_SMALL = 100  # columns; below this a second search costs almost nothing
_MOST_DIFFERENCES = 200_000
_QUICK_PLANS = 50_000
"""Partial plans (about 0.2 s) after which an engine is the better choice."""
_QUICK_PLANS_IN_TWO_ROWS = 500_000
"""The same (about 3 s) with one or two rows, where all dominated partial plans are left out."""


class Closer(Protocol):
    """Search between the bound of a relaxation and the cost of a known plan, or a cutoff."""

    def __call__(
        self, program: Program, relaxation: Relaxation, plan: IntArray | None, cost: float, limits: SearchLimits
    ) -> Outcome:
        """Return a plan below `cost`, or the known plan; without a plan, a bound of `cost` if that is proven."""


def prove(program: Program, limits: SearchLimits, closer: Closer) -> Outcome:
    """Return the best plan of a presolved program with its proof; among equal costs, the one with the least `tie`.

    Args:
        program: Presolved.
        limits: Time and gap.
        closer: Searches between the bound and the best known plan.
    """

    def close(part: Program, cutoff: float) -> Outcome:
        return best_plan(part, limits, closer, cutoff)

    def tie(part: Program, cost: float, elsewhere: bool) -> IntArray | None:
        return least_tie(part, cost, limits, closer, elsewhere=elsewhere)

    if families.countable(program):
        return families.prove_by_sets(program, limits, close, tie)
    best = close(program, np.inf)
    if best.columns is None or not best.finished or best.tie_settled:
        return best
    tied = tie(program, float(program.cost[best.columns].sum()), False)
    if tied is None or program.tie[tied].sum() >= program.tie[best.columns].sum():
        return best
    return replace(best, columns=tied)


def best_plan(program: Program, limits: SearchLimits, closer: Closer, cutoff: float = np.inf) -> Outcome:
    """Return the best plan that costs less than `cutoff`; no plan and a bound of `cutoff` if there is none.

    Args:
        program: Presolved.
        limits: Time and gap.
        closer: Searches between the bound and the best known plan.
        cutoff: Cost that a plan must stay below.
    """
    return best_plan_from(program, limits, closer, (), cutoff)[0]


def best_plan_from(
    program: Program, limits: SearchLimits, closer: Closer, known: Sequence[IntArray], cutoff: float = np.inf
) -> tuple[Outcome, Sequence[IntArray]]:
    """Return the same as `best_plan`, and the plans of the relaxation, for the relaxation of a similar program.

    Args:
        program: Presolved.
        limits: Time and gap.
        closer: Searches between the bound and the best known plan.
        known: Plans from which the relaxation starts; they need not fit.
        cutoff: Cost that a plan must stay below.
    """
    easiest = cheapest(program)
    if program.fits(easiest):
        cost = float(program.cost[easiest].sum())
        return Outcome(easiest if cost < cutoff else None, cost, finished=True), known
    relaxation = relax(program, known=known)
    if relaxation.infeasible:
        return Outcome(None, np.inf, finished=True), known
    if relaxation.bound >= cutoff:
        return Outcome(None, relaxation.bound, finished=True), relaxation.plans
    # The heuristics ignore families, so with a limit on families the engine starts without a plan.
    plan = incumbent(program, relaxation) if program.max_families is None else None
    cost = np.inf if plan is None else float(program.cost[plan].sum())
    if cost >= cutoff:
        plan, cost = None, cutoff
    if cost < np.inf and cost - relaxation.bound <= limits.engine_gap() * abs(cost):
        return Outcome(plan, min(relaxation.bound, cost), finished=True), relaxation.plans

    def close(part: Program, loose: Relaxation) -> Outcome:
        return closer(part, loose, plan, cost, limits)

    return without_slack_rows(program, relaxation, close), relaxation.plans


def without_slack_rows(
    program: Program, relaxation: Relaxation, close: Callable[[Program, Relaxation], Outcome]
) -> Outcome:
    """Search without the rows that do not bind in the relaxation, and with all rows only if the plan breaks one.

    The fewer rows, the more partial plans are dominated. Leaving rows out is a relaxation, so its bound holds for the
    whole program, and so does its proof if the plan fits. The row that breaks ties stays.

    Args:
        program: Presolved.
        relaxation: Its relaxation. A row with a multiplier of 0 does not bind.
        close: Searches between the bound and the best known plan.
    """
    kept = (relaxation.multipliers > 0) | np.array([np.array_equal(row, program.tie) for row in program.rows])
    if kept.any() and not kept.all():
        part = replace(program, rows=program.rows[kept], rhs=program.rhs[kept])
        outcome = close(part, replace(relaxation, multipliers=relaxation.multipliers[kept]))
        if outcome.columns is None or program.fits(outcome.columns):
            return outcome
    return close(program, relaxation)


@dataclass(frozen=True, slots=True)
class ByEngine:
    """The closer that runs an engine on the core."""

    engine: Engine

    def __call__(
        self, program: Program, relaxation: Relaxation, plan: IntArray | None, cost: float, limits: SearchLimits
    ) -> Outcome:
        """Search for a plan below `cost` among the columns that such a plan can use."""
        core = core_of(program, relaxation, cost)
        if core is None:
            return Outcome(plan, cost, finished=True)
        outcome = search(core, limits, self.engine)
        bound = max(relaxation.bound, min(outcome.bound, cost))
        if outcome.columns is None:
            return Outcome(plan, bound, outcome.finished)
        better = columns_in(program, core, outcome.columns)
        return Outcome(better if program.cost[better].sum() < cost else plan, bound, outcome.finished)


@dataclass(slots=True)
class PartialPlansFirst:
    """The closer that tries partial plans first, and an engine if there are too many; `used_engine` records which."""

    engine: Engine
    used_engine: bool = False

    def __call__(
        self, program: Program, relaxation: Relaxation, plan: IntArray | None, cost: float, limits: SearchLimits
    ) -> Outcome:
        """Search for a plan below `cost`."""
        bound = relaxation.bound
        if program.max_families is None:
            most = _QUICK_PLANS if len(program.rows) > 2 else _QUICK_PLANS_IN_TWO_ROWS
            quick = partial_plans.close(program, relaxation, plan, cost, limits, most)
            if quick.finished or limits.expired():
                return quick
            bound = quick.bound
        self.used_engine = True
        outcome = ByEngine(self.engine)(program, relaxation, plan, cost, limits)
        return replace(outcome, bound=max(outcome.bound, bound))


def core_of(program: Program, relaxation: Relaxation, cost: float) -> Program | None:
    """Return the program of the columns that a plan of at most this cost can use; None if there is no such plan.

    Args:
        program: All columns.
        relaxation: Its relaxation.
        cost: Largest cost of a plan; infinity keeps every column.
    """
    if cost == np.inf:
        return program
    ceiling = cost + program.rounding(cost)
    core = program.keep(relaxation.reduced <= (ceiling - relaxation.bound) * (1 + 1e-9))
    return None if core is None else drop_unfitting(core)


def least_tie(
    program: Program, cost: float, limits: SearchLimits, closer: Closer, *, elsewhere: bool = False
) -> IntArray | None:
    """Among the plans of a given cost, return the one that uses least of the tie-breaking resource.

    None if no plan has this cost or the time is over; also if no two plans of the program can tie, unless the known
    plan of this cost is `elsewhere`.

    Args:
        program: Presolved.
        cost: Cost of the best plan.
        limits: Time and gap.
        closer: Searches between the bound and the best known plan.
        elsewhere: Whether the known plan of this cost is outside the program.
    """
    base = float(program.least(program.cost).sum())
    cutoff = tie_cutoff(program, cost)
    relaxation = relax(program)
    if relaxation.bound > cutoff:
        return None
    equal = core_of(program, relaxation, cutoff)
    if equal is None or (not elsewhere and not _could_tie(equal, 1e-12 * max(cost - base, 0.0))):
        return None
    second = drop_unfitting(
        replace(equal, cost=equal.tie, rows=np.vstack([equal.rows, equal.cost]), rhs=np.append(equal.rhs, cutoff))
    )
    if second is None:
        return None
    outcome = best_plan(second, limits, closer)
    return None if outcome.columns is None else columns_in(program, second, outcome.columns)


def _could_tie(program: Program, rounding: float) -> bool:
    """Whether two plans may have the same cost and differ in `tie`.

    Two plans tie if the cost differences of their items cancel. With measured values that happens only if some
    difference is zero or occurs twice; otherwise the second search can be skipped.
    """
    if (program.least(-program.tie) == -program.least(program.tie)).all():
        return False
    sizes = np.diff(program.starts, append=len(program.group))
    if len(program.group) <= _SMALL or int((sizes**2).sum()) > _MOST_DIFFERENCES:
        return True
    parts = np.split(program.cost, program.starts[1:])
    steps = [np.abs(part[:, None] - part)[np.triu_indices(len(part), 1)] for part in parts]
    ordered = np.sort(np.concatenate(steps))
    return bool((np.diff(ordered, prepend=0.0) <= rounding).any())
