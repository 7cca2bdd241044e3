"""Lagrangian relaxation with a proven bound, then repair and a limited exact search; for thousands of items."""

from dataclasses import replace
from importlib.metadata import version

import numpy as np

from ..model.errors import SolverError
from ..model.program import IntArray, Program, columns_in
from ..search import exact_search, families, partial_plans, scaled_engine
from ..search.incumbent import incumbent
from ..search.outcome import Outcome, SearchLimits
from ..search.presolve import cheapest
from ..search.relaxation import Relaxation, relax
from ..search.scipy_engine import minimise_by_scipy

ABOUT = (__doc__ or "").partition("\n")[0]
CORE_COLUMNS = 4000
"""Columns of the largest core that the engine searches as a whole; of a larger core it searches only a window."""
WINDOW_COLUMNS = 600
MOST_NODES = 100
MOST_NODES_TO_FIRST = 1000
MOST_STATES = 100_000
ENGINE_GAP = 1e-5


class Lagrangian:
    """What `solver="lagrangian"` runs."""

    about = ABOUT

    def usable(self) -> bool:
        """Needs only scipy."""
        return True

    def label(self) -> str:
        """Return name and version."""
        return f"lagrangian (SciPy {version('scipy')})"

    def run(self, program: Program, limits: SearchLimits) -> Outcome:
        """Return a good plan and a bound; it is proven optimal only if the gap closes within a fixed effort.

        Args:
            program: Presolved and scaled.
            limits: Time and gap.

        Raises:
            SolverError: `max_families` leaves more sets of families than can be bounded one by one.
        """
        if families.countable(program):
            return families.prove_by_sets(program, limits, lambda part, cutoff: settle(part, limits, cutoff))
        if program.max_families is not None:
            raise SolverError("lagrangian: too many sets of families. Use the solver 'ilp' or fewer families.")
        return settle(program, limits, np.inf)


METHOD = Lagrangian()


def settle(program: Program, limits: SearchLimits, cutoff: float) -> Outcome:
    """Return a plan below the cutoff, if there is one, and a bound on the cost of every plan.

    Args:
        program: Without a limit on families.
        limits: Time and gap.
        cutoff: Cost that a plan must stay below; infinity for none.
    """
    easiest = cheapest(program)
    if program.fits(easiest):
        cost = float(program.cost[easiest].sum())
        return Outcome(easiest if cost < cutoff else None, cost, finished=True)
    relaxation = relax(program)
    if relaxation.infeasible or relaxation.bound >= cutoff:
        return Outcome(None, np.inf if relaxation.infeasible else relaxation.bound, finished=True)
    plan = incumbent(program, relaxation)
    if plan is None:  # no repair worked, so a search must find the first plan or prove that there is none
        closer = exact_search.PartialPlansFirst(minimise_by_scipy)
        return closer(program, relaxation, None, cutoff, replace(limits, most_nodes=MOST_NODES_TO_FIRST))
    known = plan

    def improve(part: Program, loose: Relaxation) -> Outcome:
        return _improve(part, loose, known, limits)

    outcome = exact_search.without_slack_rows(program, relaxation, improve)
    if outcome.columns is not None and program.cost[outcome.columns].sum() >= cutoff:
        return replace(outcome, columns=None)
    return outcome


def _improve(program: Program, relaxation: Relaxation, plan: IntArray, limits: SearchLimits) -> Outcome:
    """Search the core, or a window of it, with a fixed effort."""
    cost = float(program.cost[plan].sum())
    if cost - relaxation.bound <= limits.relative_gap * abs(cost):
        return Outcome(plan, min(relaxation.bound, cost), finished=True)
    core = exact_search.core_of(program, relaxation, cost)
    if core is None:
        return Outcome(plan, cost, finished=True)
    if len(program.rhs) == 1 or len(core.group) <= CORE_COLUMNS:
        closed = partial_plans.close(program, relaxation, plan, cost, limits, MOST_STATES)
        if closed.finished or limits.expired() or len(program.rhs) == 1:
            return replace(closed, finished=not limits.expired())
    if len(core.group) > CORE_COLUMNS:
        searched = _search(program, _window(program, relaxation, plan), limits)
        return Outcome(_cheaper(program, searched.columns, plan), relaxation.bound, not limits.expired())
    searched = _search(program, core, limits)
    bound = max(relaxation.bound, min(searched.bound, cost))
    return Outcome(_cheaper(program, searched.columns, plan), bound, finished=not limits.expired())


def _window(program: Program, relaxation: Relaxation, plan: IntArray) -> Program:
    """Return the plan's own columns and those of least reduced cost."""
    mask = np.zeros(len(program.group), dtype=bool)
    mask[np.argsort(relaxation.reduced, kind="stable")[: len(plan) + WINDOW_COLUMNS]] = True
    mask[plan] = True
    return program.take(mask)


def _search(program: Program, part: Program, limits: SearchLimits) -> Outcome:
    effort = replace(limits, relative_gap=max(limits.relative_gap, ENGINE_GAP), most_nodes=MOST_NODES)
    outcome = scaled_engine.search(part, effort, minimise_by_scipy)
    if outcome.columns is None:
        return outcome
    return replace(outcome, columns=columns_in(program, part, outcome.columns))


def _cheaper(program: Program, other: IntArray | None, plan: IntArray) -> IntArray:
    return plan if other is None or program.cost[other].sum() >= program.cost[plan].sum() else other
