"""Limits on latency and energy: neither adds up over matrices, but separable sums bound both from below and above.

The lower sum (everything prefetched that can be) relaxes the limit, so the best plan under it bounds every plan that
meets the limit. If that plan meets the limit itself, it is optimal. If not, the cap on the sum is lowered by the
excess until a plan meets the limit; its gap is measured against the relaxation.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from solvers import price

from ..errors import InfeasibleError, NoPlanFoundError, QbertOptError
from ..spec.limits import Row
from ..spec.quantities import TOKEN, shown_apart
from .cross_fit import fixed_judgement
from .program import FLOORS, SCHEDULED, PlanningTask
from .solving import Plan, SolverOptions, placed, proven_against, search, search_ended
from .traffic_limit import search_within

MAX_TIGHTENINGS = 12
TIGHTENING_GAP = 1e-3  # sufficient under a lowered cap, because the proof is against the relaxation


def broken(task: PlanningTask, plan: Plan) -> list[Row]:
    """Return the limits on latency and energy that a plan exceeds.

    Args:
        task: its limits.
        plan: a solution, with the simulator's report.
    """
    if plan.report is None:
        return []
    return [row for row in task.scheduled if plan.measured(row.measure) > row.stated]


def enforced(task: PlanningTask, relaxed: Plan, options: SolverOptions) -> Plan:
    """Return a plan that meets the limits on latency and energy, with a gap against the relaxation.

    Args:
        task: scores, limits and hardware.
        relaxed: the best plan without these limits.
        options: solver, gap, and a time limit for all solves together.

    Raises:
        InfeasibleError: proven: no plan meets every limit.
        NoPlanFoundError: the search found none, and there may be one.
    """
    start = time.perf_counter()
    # A fixed effort per solve: the gap that it leaves is far below that of the relaxation.
    quick = replace(options, solver="lagrangian") if options.solver == "auto" else options
    fixed = task.tables.fixed
    below: dict[str, float] = {row.measure: row.stated - fixed[FLOORS[row.measure]] for row in task.scheduled}
    plan, lower_bound = _tightened(task, quick, start, FLOORS, below, joint=task.joint)
    if plan is None and lower_bound < math.inf:
        # The lower sums are the same for streamed and resident weights; the upper ones decide residency too.
        above: dict[str, float] = {
            row.measure: 1.02 * row.stated - fixed[SCHEDULED[row.measure]] for row in task.scheduled
        }
        plan, _ = _tightened(task, quick, start, SCHEDULED, above, joint=task.has_scratchpad)
    if plan is None:
        nearest = {row: _nearest(task, row, options.remaining(start)) for row in broken(task, relaxed)}
        plan = next((least for least in nearest.values() if least is not None and not broken(task, least)), None)
        if plan is None:
            raise _no_plan(nearest, options, proven=lower_bound == math.inf)
    solution = proven_against(plan.solution, max(lower_bound, relaxed.solution.lower_bound))
    tightened = tuple(row.measure for row in broken(task, relaxed))
    return replace(plan, solution=solution, tightened=tightened)


def _tightened(
    task: PlanningTask,
    options: SolverOptions,
    start: float,
    sums: Mapping[str, str],
    caps: dict[str, float],
    *,
    joint: bool,
) -> tuple[Plan | None, float]:
    """Solve under caps on the sums, and lower the caps by the schedule's excess until a plan meets the limits.

    Args:
        task: scores, limits and hardware.
        options: solver, time limit, gap.
        start: when the time of the limit began, by `time.perf_counter`.
        sums: the separable sum of each limit.
        caps: first cap on each sum, by measure.
        joint: decide bits and residency together.

    Returns:
        The plan, None if none was found; and the lower bound under the first caps (infinity: proven, no plan).
    """
    caps, lower_bound = dict(caps), -math.inf
    for number in range(MAX_TIGHTENINGS):
        problem = task.problem(task.capacity() | _rows(caps, sums), joint=joint)
        solution = search_within(problem, len(task.choices), options.remaining(start))
        options = replace(options, relative_gap=max(options.relative_gap, TIGHTENING_GAP))
        lower_bound = solution.lower_bound if number == 0 else lower_bound
        if solution.choice is None:
            break
        plan = Plan(problem, solution, *placed(task, solution.choice))
        over = broken(task, plan)
        if not over:
            return plan, lower_bound
        for row in over:
            excess = plan.measured(row.measure) - row.stated
            caps[row.measure] = min(caps[row.measure], solution.usage[sums[row.measure]]) - 1.01 * excess
    return None, lower_bound


def _rows(caps: Mapping[str, float], sums: Mapping[str, str]) -> dict[str, float]:
    return {sums[measure]: max(0.0, cap) for measure, cap in caps.items()}


def _nearest(task: PlanningTask, row: Row, options: SolverOptions) -> Plan | None:
    """Return the plan with the least upper sum within the other limits; None if none was found.

    The scores had no part in choosing it, so its loss is predicted by its own scores and not by cross-fitting.
    """
    problem = task.problem(task.capacity(), joint=task.has_scratchpad)
    bound = problem.usage[SCHEDULED[row.resource]]
    least = search(replace(problem, value=np.where(problem.mask(), bound, np.nan)), options)
    if least.choice is None:
        return None
    solution = replace(least, value=price(problem, least.choice)[0])
    problem = replace(problem, capacity={**problem.capacity, SCHEDULED[row.resource]: least.value})
    return Plan(problem, solution, *placed(task, least.choice), judged=fixed_judgement(task, least.choice))


def _no_plan(nearest: Mapping[Row, Plan | None], options: SolverOptions, *, proven: bool) -> QbertOptError:
    """Return the error that says which limits are not met, and the nearest value that a plan reaches."""
    reasons = []
    for row, plan in nearest.items():
        if plan is None or plan.measured(row.measure) <= row.stated:
            continue
        stated, reached = shown_apart(row.measure, row.stated, plan.measured(row.measure))
        fast = row.measure == TOKEN
        beyond = "is above the ceiling" if fast else "is below the floor"
        reasons.append(
            f"{row.source} = {stated} {beyond if proven else 'is not met by any plan found'}: "
            f"{'fastest' if fast else 'nearest'} feasible {reached} within the other limits; "
            f"binding limit {row.measure}"
        )
    reason = "; ".join(reasons) or f"{', '.join(row.source for row in nearest)}: not met together"
    rows = list(nearest)
    advice = "Raise it" if all(row.measure != TOKEN for row in rows) else "Ask for less, or give other limits more room"
    if proven:
        return InfeasibleError(f"no plan meets every limit: {reason}. {advice}.")
    return NoPlanFoundError(f"{search_ended(options)} without a plan, and there may be one: {reason}.")
