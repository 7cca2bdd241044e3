"""Solve a problem with a named method, and report only what was proven."""

import math
import time
from dataclasses import replace

import numpy as np

from .diagnosis import binding_rows, conflicting_rows, nearest_capacities
from .model.errors import SolverError
from .model.pricing import price
from .model.problem import ChoiceProblem
from .model.program import lift, program_of
from .model.solution import NOISE, PROVEN_GAP, ChoiceSolution, Status, relative_gap
from .registry import method
from .search import proof
from .search.outcome import Outcome, SearchLimits
from .search.presolve import presolve


def solve(
    problem: ChoiceProblem,
    solver: str = "auto",
    *,
    time_limit_s: float | None = None,
    relative_gap: float = PROVEN_GAP,
    seed: int = 0,
) -> ChoiceSolution:
    """Return the plan of least value under every capacity, mask and link, with its proof.

    Among plans of equal value (to 1e-9 of the value above the least) the one that uses least of the tie-breaking
    resource is returned (`lagrangian` does not break ties). The same input gives the same solution, unless the time
    limit stops the search.

    Args:
        problem: Items, options and constraints.
        solver: A name from `available()`.
        time_limit_s: Stop after this many seconds with the best plan so far, status `TIME_LIMIT`, or
            `NO_PLAN_FOUND` where there is none yet.
        relative_gap: The search may stop at this proven gap; with a gap above 1e-6 the status is `FEASIBLE`.
        seed: For solvers that draw random numbers.

    Returns:
        The plan, priced from the tables, with status, bound and gap. Without a plan the status tells why: proven
        infeasible (with conflicting rows and the nearest feasible capacities), or not found before the search ended.

    Raises:
        SolverError: The solver is unknown, cannot be used here or does not take this problem, or an option is out of
            range.
    """
    chosen = method(solver)
    if not chosen.usable():
        raise SolverError(f"solver {solver!r}: a package that it needs is missing. Install it or use 'milp'.")
    if time_limit_s is not None and not time_limit_s > 0:
        raise SolverError(f"time_limit_s: is {time_limit_s}. Give a positive number of seconds, or None.")
    if not 0 <= relative_gap < math.inf:
        raise SolverError(f"relative_gap: is {relative_gap}. Give 0 or more, such as 1e-6.")
    start = time.perf_counter()
    deadline = math.inf if time_limit_s is None else start + time_limit_s
    limits = SearchLimits(relative_gap, seed, deadline)
    program = program_of(problem)
    reduced = presolve(program)
    if reduced is None:
        outcome = Outcome(None, math.inf, finished=True)
    elif limits.expired():
        outcome = Outcome(None, math.fsum(reduced.least(reduced.cost).tolist()), finished=False)
    else:
        outcome = proof.prove(reduced, limits, chosen.run)
    if outcome.columns is None or reduced is None:
        answer = _without_plan(problem, outcome)
    else:
        answer = _with_plan(problem, lift(problem, reduced, outcome.columns), outcome)
    return replace(answer, runtime_s=time.perf_counter() - start, solver=outcome.solver or chosen.label())


def _without_plan(problem: ChoiceProblem, outcome: Outcome) -> ChoiceSolution:
    status = Status.INFEASIBLE if outcome.finished else Status.NO_PLAN_FOUND
    infeasible = status is Status.INFEASIBLE
    return ChoiceSolution(
        status=status,
        choice=None,
        value=math.nan,
        usage={},
        lower_bound=outcome.bound,
        gap=math.inf,
        nearest_capacity=nearest_capacities(problem) if infeasible else {},
        conflicts=conflicting_rows(problem) if infeasible else (),
    )


def _with_plan(problem: ChoiceProblem, choice: tuple[int, ...], outcome: Outcome) -> ChoiceSolution:
    value, usage = price(problem, choice)
    bound = min(outcome.bound, value)
    worth = math.fsum(np.abs(problem.value[range(len(choice)), choice]).tolist())
    if value - bound <= NOISE * worth:
        bound = value
    gap = relative_gap(value, bound, worth)
    status = Status.OPTIMAL if gap <= PROVEN_GAP else Status.FEASIBLE
    status = status if outcome.finished else Status.TIME_LIMIT
    return ChoiceSolution(
        status=status,
        choice=choice,
        value=value,
        usage=usage,
        lower_bound=bound,
        gap=gap,
        binding=binding_rows(problem, choice),
    )
