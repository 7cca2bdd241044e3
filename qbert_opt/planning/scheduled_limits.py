"""Limits on latency and energy. Neither adds up over matrices, but separable sums bound both from below and above.

The lower sum (everything prefetched that can be) relaxes the limit, so the best plan under it bounds every plan that
keeps the limit. If that plan keeps the limit itself, it is optimal. If not, the cap on the sum is lowered by the
excess until a plan keeps the limit; its gap is measured against the relaxation.
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
TIGHTENING_GAP = 1e-3  # enough under a lowered cap, because the proof is against the relaxation


def broken(task: PlanningTask, plan: Plan) -> list[Row]:
    """Return the limits on latency and energy that a plan exceeds.

    Args:
        task: its limits.
        plan: a solution, with the simulator's report.
    """
    if plan.report is None:
        return []
    return [row for row in task.scheduled if measured(plan.report, row.measure) > row.stated]


def enforced(task: PlanningTask, relaxed: Plan, options: SolverOptions) -> Plan:
    """Return a plan that keeps the limits on latency and energy, with a gap against the relaxation.

    Args:
        task: scores, limits and hardware.
        relaxed: the best plan without these limits.
        options: solver, time limit, gap.

    Raises:
        InfeasibleError: no plan keeps every limit, or the search found none.
    """
    # A fixed effort per solve: the gap that it leaves is far below that of the relaxation.
    quick = replace(options, solver="lagrangian") if options.solver == "auto" else options
    below: dict[str, float] = {row.measure: row.stated - task.fixed(FLOORS[row.measure]) for row in task.scheduled}
    plan, lower_bound = _tightened(task, quick, FLOORS, below, joint=False)
    if plan is None:
        reached = [_reached(task, row, options) for row in broken(task, relaxed)]
        if lower_bound == math.inf:
            raise InfeasibleError(f"{_sources(task)}: no plan keeps all of them. Raise one of them.")
        # The lower sum is the same for streamed and resident weights; the upper sum also decides residency.
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
    """Solve under caps on the sums, and lower the caps by the schedule's excess until a plan keeps the limits.

    Args:
        task: scores, limits and hardware.
        options: solver, time limit, gap.
        sums: the separable sum of each limit.
        caps: first cap on each sum, by measure.
        joint: decide bits and residency together.

    Returns:
        The plan, None if there is none; and the lower bound under the first caps (infinity: no plan).
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
    """Return a solution whose status and gap are those that a given lower bound proves.

    Args:
        solution: found under lowered caps, which prove nothing about the problem itself.
        lower_bound: of the objective, without lowered caps.
    """
    gap = relative_gap(solution.value, lower_bound)
    status = Status.OPTIMAL if gap <= PROVEN_GAP else Status.FEASIBLE
    status = solution.status if solution.status is Status.TIME_LIMIT else status
    return replace(solution, status=status, lower_bound=min(lower_bound, solution.value), gap=gap)


def _reached(task: PlanningTask, row: Row, options: SolverOptions) -> Plan:
    """Return the plan with the least upper sum.

    Raises:
        InfeasibleError: not even this plan keeps the limit; the message gives the value that it reaches.
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
