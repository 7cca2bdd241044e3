"""Limits on scheduled values: latency and energy do not add up over matrices, but sums bound them from both sides.

A sum that no schedule can undercut (everything prefetched that can be) relaxes the limit: its best plan bounds every
plan that keeps the limit. That plan often keeps the limit itself, and is then proven. Where it does not, the sum is
capped lower by what the plan is over, until one does; the gap stays against the relaxation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from solvers import PROVEN_GAP, ChoiceSolution, Status, price, relative_gap

from ..errors import InfeasibleError
from ..spec.limits import Row, measured, shown_apart
from .program import FLOORS, SCHEDULED, PlanningTask
from .solving import Plan, SolverOptions, attempt, why_infeasible

MAX_TIGHTENINGS = 12
TIGHTENING_GAP = 1e-3  # of plans under a lowered cap, whose proof is against the relaxation anyway


def broken(task: PlanningTask, plan: Plan) -> list[Row]:
    """Return the scheduled limits that a plan does not keep."""
    if plan.report is None:
        return []
    return [row for row in task.scheduled if measured(plan.report, row.measure) > row.stated]


def enforced(task: PlanningTask, relaxed: Plan, options: SolverOptions) -> Plan:
    """Return a plan that keeps the scheduled limits, proven against what no schedule can undercut.

    Raises:
        InfeasibleError: no plan keeps every limit, or none was found that does.
    """
    # A fixed effort per solve: what is left open is far below what the relaxation leaves.
    quick = replace(options, solver="lagrangian") if options.solver == "auto" else options
    below: dict[str, float] = {row.measure: row.stated - task.fixed(FLOORS[row.measure]) for row in task.scheduled}
    plan, lower_bound = _tightened(task, quick, FLOORS, below, joint=False)
    if plan is None:
        reached = [_reached(task, row, options) for row in broken(task, relaxed)]
        if lower_bound == math.inf:
            raise InfeasibleError(f"{_sources(task)}: no plan keeps all of them. Raise one of them.")
        # The sum from below knows nothing of what is streamed; the one from above decides that too.
        above: dict[str, float] = {
            row.measure: 1.02 * row.stated - task.fixed(SCHEDULED[row.measure]) for row in task.scheduled
        }
        plan, _ = _tightened(task, quick, SCHEDULED, above, joint=task.has_scratchpad)
        plan = plan or next((least for least in reached if not broken(task, least)), None)
    if plan is None:
        raise InfeasibleError(f"{_sources(task)}: no plan found that keeps all of them on the schedule. Raise one.")
    solution = proven_against(plan.solution, max(lower_bound, relaxed.solution.lower_bound))
    tightened = tuple(row.measure for row in broken(task, relaxed))
    return replace(plan, solution=solution, tightened=tightened)


def _tightened(
    task: PlanningTask, options: SolverOptions, sums: Mapping[str, str], caps: dict[str, float], *, joint: bool
) -> tuple[Plan | None, float]:
    """Solve under capped sums, lower the caps by what the schedule is over; None when nothing is left.

    The second value is the lower bound under the caps as they came (infinity: no plan).
    """
    caps, lower_bound = dict(caps), -math.inf
    for number in range(MAX_TIGHTENINGS):
        problem = task.problem(task.capacity() | _rows(caps, sums), joint=joint)
        solution = attempt(problem, options)
        options = replace(options, relative_gap=max(options.relative_gap, TIGHTENING_GAP))
        lower_bound = solution.lower_bound if number == 0 else lower_bound
        if solution.choice is None:
            break
        plan = Plan(problem, solution, *task.placed(solution.choice))
        over = broken(task, plan)
        if not over:
            return plan, lower_bound
        for row in over:
            excess = measured(plan.report, row.measure) - row.stated
            caps[row.measure] = min(caps[row.measure], solution.usage[sums[row.measure]]) - 1.01 * excess
    return None, lower_bound


def _rows(caps: Mapping[str, float], sums: Mapping[str, str]) -> dict[str, float]:
    return {sums[measure]: max(0.0, cap) for measure, cap in caps.items()}


def proven_against(solution: ChoiceSolution, lower_bound: float) -> ChoiceSolution:
    """Return a solution that claims no more than a bound of the problem without lowered caps proves."""
    gap = relative_gap(solution.value, lower_bound)
    status = Status.OPTIMAL if gap <= PROVEN_GAP else Status.FEASIBLE
    status = solution.status if solution.status is Status.TIME_LIMIT else status
    return replace(solution, status=status, lower_bound=min(lower_bound, solution.value), gap=gap)


def _reached(task: PlanningTask, row: Row, options: SolverOptions) -> Plan:
    """Return the plan of least sum from above.

    Raises:
        InfeasibleError: Not even this plan keeps the limit; the message says what it reaches.
    """
    problem = task.problem(task.capacity(), joint=task.has_scratchpad)
    bound = problem.usage[SCHEDULED[row.resource]]
    least = attempt(replace(problem, value=np.where(problem.mask(), bound, np.nan)), options)
    if least.choice is None:
        raise InfeasibleError(why_infeasible(task, problem, least))
    plan = Plan(problem, least, *task.placed(least.choice))
    reached = measured(plan.report, row.measure)
    if reached > row.stated:
        stated, least_reached = shown_apart(row.measure, row.stated, reached)
        raise InfeasibleError(
            f"no plan keeps every limit: {row.source} = {stated} is below the floor: "
            f"nearest feasible {least_reached} within the other limits; "
            f"binding limit {row.measure}. Raise it."
        )
    return replace(plan, solution=replace(least, value=price(problem, least.choice)[0]))


def _sources(task: PlanningTask) -> str:
    return ", ".join(row.source for row in task.scheduled)
