"""Plans for comparison: uniform plans, random plans, and the best plans with one more MB or millisecond."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from solvers import random_plans, shadow_price

from ..errors import InfeasibleError, NoPlanFoundError
from ..spec.planned import PlannedActivation, UniformPlan
from .assembly import Judgement
from .cross_fit import cross_fit, fixed_std_error
from .program import FLOORS, SCHEDULED, PlanningTask
from .solving import Plan, SolverOptions, placed, used
from .task_solver import solve_task
from .traffic_limit import TRAFFIC

MB, MS = 1_000_000, 1e-3
RANDOM_PLANS = 3
NUM_UNIFORM = 3
ROUNDING = 1 + 1e-9  # of sums, where the schedule decides


def best_uniform_plans(
    task: PlanningTask, plan: Plan, activations: Sequence[PlannedActivation] = ()
) -> list[UniformPlan]:
    """Return the three best plans that give every matrix one choice, within all limits.

    Args:
        task: scores, limits and hardware.
        plan: its solution; the uniform plans keep its choices for embedding tables.
        activations: how inputs are quantized; a limit on the predicted loss counts their loss too.
    """
    matrices = slice(0, task.num_matrices)
    names = [c.name for c in task.choices]
    tables = [names.index(plan.storage[item.module].choice.name) for item in task.items[task.num_matrices :]]
    table_loss = math.fsum(task.value[task.num_matrices + i, column] for i, column in enumerate(tables))
    max_loss = math.inf if task.constraints.max_loss is None else task.constraints.max_loss
    max_loss -= math.fsum(item.predicted_loss for item in activations)
    size = task.tables.usage["encoder_bytes"][matrices].sum(axis=0)
    least = np.zeros(len(names)) if task.goal is None else task.tables.usage[task.goal][matrices].sum(axis=0)
    loss = [math.fsum([*task.value[matrices, j], table_loss]) for j in range(len(names))]
    found: list[UniformPlan] = []
    for j in sorted(np.flatnonzero(task.legal[matrices].all(axis=0)).tolist(), key=lambda j: (least[j], loss[j])):
        chosen = [*[j] * task.num_matrices, *tables]
        masked = any((i, j) in task.tables.masks for i in range(task.num_matrices))
        if masked or loss[j] > max_loss or not _meets_limits(task, chosen):
            continue
        error = fixed_std_error(task, loss[j], np.array(chosen))
        found.append(
            UniformPlan(choice=names[j], encoder_bytes=int(size[j]), predicted_loss=loss[j], predicted_std_error=error)
        )
        if len(found) == NUM_UNIFORM:
            break
    return found


def _meets_limits(task: PlanningTask, choice: Sequence[int]) -> bool:
    """Return whether a plan meets every limit. It is simulated only where sums over its items cannot tell.

    Args:
        task: scores, limits and hardware.
        choice: index into `task.choices` of each item.
    """
    items = range(len(choice))
    usage = {name: float(table[items, choice].sum()) for name, table in task.tables.usage.items()}
    over = [name for name, row in task.hard.items() if usage[name] > row.capacity]
    if any(name != TRAFFIC or not task.has_scratchpad for name in over):
        return False
    fixed = task.tables.fixed
    bounds = [(row, FLOORS[row.resource], SCHEDULED[row.resource]) for row in task.scheduled]
    if any(usage[low] + fixed[low] > row.stated * ROUNDING for row, low, _ in bounds):
        return False
    if not over and all(usage[high] + fixed[high] <= row.stated for row, _, high in bounds):
        return True
    try:
        storage, report, token = placed(task, choice)
    except InfeasibleError:
        return False
    return all(used(task, storage, report, token, row) <= row.stated for row in task.rows)


def median_random_loss(task: PlanningTask, plan: Plan) -> float | None:
    """Return the median predicted loss of a few random plans that fill the same limits; None if none meets them all.

    Args:
        task: scores, limits and hardware.
        plan: its solution; the random plans keep its choices for embedding tables.
    """
    if task.goal is not None:
        return None  # under a limit on loss, random plans use it up, so their loss says nothing
    problem = replace(plan.problem, pins=_table_pins(task, plan))
    rivals = random_plans(problem, RANDOM_PLANS)
    losses = [r.value for r in rivals if _meets_limits(task, [j % len(task.choices) for j in r.choice])]
    return statistics.median(losses) if losses else None


def _table_pins(task: PlanningTask, plan: Plan) -> dict[str, str]:
    return {item.module: plan.storage[item.module].choice.name for item in task.searched_tables}


def gain_of_next_mb(task: PlanningTask, plan: Plan, judged: Judgement | None) -> float | None:
    """Solve again with one more MB and return the decrease of the predicted loss; None without a byte budget.

    Args:
        task: scores, limits and hardware.
        plan: its solution.
        judged: the plan's cross-fitted loss; None compares sums of scores.
    """
    limited = [name for name in ("encoder_bytes", "total_bytes") if name in plan.problem.capacity]
    if not limited or plan.tightened or task.goal is not None:
        return None  # limits on latency or energy would need their caps lowered again
    resource = next((name for name in limited if name in plan.solution.binding), limited[0])
    if judged is None:
        return shadow_price(plan.problem, plan.solution, resource, MB)
    capacity = {**plan.problem.capacity, resource: plan.problem.capacity[resource] + MB}
    wider = cross_fit(task, replace(plan.problem, capacity=capacity))
    return None if wider is None else judged.loss - wider.loss


def gain_of_next_ms(task: PlanningTask, plan: Plan, judged: Judgement | None) -> float | None:
    """Solve again with one more ms and return the decrease of the predicted loss; None if latency does not bind.

    Also None if that search finds no plan, since the plan itself does not depend on it.

    Args:
        task: scores, limits and hardware.
        plan: its solution.
        judged: the plan's cross-fitted loss; None compares sums of scores.
    """
    if "latency_s" not in plan.tightened or task.goal is not None:
        return None
    stated = next(row.stated for row in task.scheduled if row.measure == "latency_s")
    wider_task = task.under(replace(task.limits, latency_s=stated + MS))
    try:
        wider = solve_task(wider_task, SolverOptions())
    except NoPlanFoundError:
        return None
    if judged is None:
        return max(0.0, plan.solution.value - wider.solution.value)
    again = wider.judged or cross_fit(wider_task, wider.problem)
    return None if again is None else judged.loss - again.loss
