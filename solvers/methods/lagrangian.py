"""Multipliers for every capacity, with a bound and exact repair of what is left: the one for thousands of items."""

from dataclasses import replace

import numpy as np

from .. import branch, families, states
from ..errors import SolverError
from ..incumbent import incumbent
from ..outcome import Limits, Outcome
from ..presolve import cheapest
from ..program import IntArray, Program, columns_in
from ..relaxation import Relaxation, relax
from . import milp

CORE_COLUMNS = 4000
"""Largest core that is handed to the engine whole; of a larger one only a window is improved."""
WINDOW_COLUMNS = 600
MOST_NODES = 100
MOST_NODES_TO_FIRST = 1000
MOST_STATES = 100_000
ENGINE_GAP = 1e-5


def usable() -> bool:
    """Needs only scipy."""
    return True


def label() -> str:
    """Return name and version."""
    import scipy

    return f"lagrangian (SciPy {scipy.__version__})"


def run(program: Program, limits: Limits) -> Outcome:
    """Return a plan and a bound; a proof only where the gap closes within a fixed effort.

    Raises:
        SolverError: `max_families` leaves more sets of families than can be bounded one by one.
    """
    if families.countable(program):
        return families.prove_by_sets(program, limits, lambda part, cutoff: settle(part, limits, cutoff))
    if program.max_families is not None:
        raise SolverError("lagrangian: too many sets of families. Use the solver 'ilp' or fewer families.")
    return settle(program, limits, np.inf)


def settle(program: Program, limits: Limits, cutoff: float) -> Outcome:
    """Return a plan below the cutoff, if one was found, and a bound on every plan."""
    easiest = cheapest(program)
    if program.fits(easiest):
        cost = float(program.cost[easiest].sum())
        return Outcome(easiest if cost < cutoff else None, cost, finished=True)
    relaxation = relax(program)
    if relaxation.infeasible or relaxation.bound >= cutoff:
        return Outcome(None, np.inf if relaxation.infeasible else relaxation.bound, finished=True)
    plan = incumbent(program, relaxation)
    if plan is None:  # no repair worked: a search has to find the first plan, or that there is none
        closer = branch.StatesFirst(milp.minimise)
        return closer(program, relaxation, None, cutoff, replace(limits, most_nodes=MOST_NODES_TO_FIRST))
    outcome = _improve(program, relaxation, plan, limits)
    if outcome.columns is not None and program.cost[outcome.columns].sum() >= cutoff:
        return replace(outcome, columns=None)
    return outcome


def _improve(program: Program, relaxation: Relaxation, plan: IntArray, limits: Limits) -> Outcome:
    """Search the core, or a window of it, with a fixed effort."""
    cost = float(program.cost[plan].sum())
    if cost - relaxation.bound <= limits.relative_gap * abs(cost):
        return Outcome(plan, min(relaxation.bound, cost), finished=True)
    core = branch.core_of(program, relaxation, cost)
    if core is None:
        return Outcome(plan, cost, finished=True)
    if len(program.rhs) == 1 or len(core.group) <= CORE_COLUMNS:
        closed = states.close(program, relaxation, plan, cost, limits, MOST_STATES)
        if closed.finished or limits.expired() or len(program.rhs) == 1:
            return replace(closed, finished=not limits.expired())
    if len(core.group) > CORE_COLUMNS:
        found = _search(program, _window(program, relaxation, plan), limits)
        return Outcome(_cheaper(program, found.columns, plan), relaxation.bound, not limits.expired())
    found = _search(program, core, limits)
    bound = max(relaxation.bound, min(found.bound, cost))
    return Outcome(_cheaper(program, found.columns, plan), bound, finished=not limits.expired())


def _window(program: Program, relaxation: Relaxation, plan: IntArray) -> Program:
    """Return the plan's own columns and those of least reduced cost."""
    mask = np.zeros(len(program.group), dtype=bool)
    mask[np.argsort(relaxation.reduced, kind="stable")[: len(plan) + WINDOW_COLUMNS]] = True
    mask[plan] = True
    return program.take(mask)


def _search(program: Program, part: Program, limits: Limits) -> Outcome:
    effort = replace(limits, relative_gap=max(limits.relative_gap, ENGINE_GAP), most_nodes=MOST_NODES)
    outcome = branch.search(part, effort, milp.minimise)
    if outcome.columns is None:
        return outcome
    return replace(outcome, columns=columns_in(program, part, outcome.columns))


def _cheaper(program: Program, found: IntArray | None, plan: IntArray) -> IntArray:
    return plan if found is None or program.cost[found].sum() >= program.cost[plan].sum() else found
