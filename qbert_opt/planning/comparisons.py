"""Plans for comparison: uniform plans, random plans, and the best plans with one more MB or millisecond."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from solvers import random_plans, shadow_price

from ..errors import NoPlanFoundError
from ..spec.planned import PlannedActivation, UniformPlan
from .assembly import Judgement
from .cross_fit import cross_fit, fixed_std_error
from .program import SCHEDULED, PlanningTask
from .solving import Plan, SolverOptions
from .task_solver import solve_task

MB, MS = 1_000_000, 1e-3
RANDOM_PLANS = 3


def best_uniform_plans(
    task: PlanningTask, plan: Plan, activations: Sequence[PlannedActivation] = ()
) -> list[UniformPlan]:
    """Return the three best plans that give every matrix one choice, within the limits on bytes and loss.

    Args:
        task: scores, limits and hardware.
        plan: its solution; the uniform plans keep its choices for embedding tables.
        activations: how inputs are quantized; a limit on the predicted loss counts their loss too.
    """
    matrices = slice(0, task.num_matrices)
    names = [c.name for c in task.choices]
    tables = [
        (i, names.index(plan.storage[item.module].choice.name))
        for i, item in enumerate(task.items)
        if i >= task.num_matrices
    ]
    table_loss = math.fsum(task.value[at] for at in tables)
    table_bytes = {"encoder_bytes": 0.0, "total_bytes": sum(task.tables.usage["total_bytes"][at] for at in tables)}
    rows = [task.hard[name] for name in table_bytes if name in task.hard]
    capacity = min((row.capacity - table_bytes[row.resource] for row in rows), default=math.inf)
    held = task.hard.get("held_bytes")
    max_loss = math.inf if task.constraints.max_loss is None else task.constraints.max_loss
    max_loss -= math.fsum(item.predicted_loss for item in activations)
    uniform_plans = []
    for j, c in enumerate(task.choices):
        masked = any((i, j) in task.tables.masks for i in range(task.num_matrices))
        size = int(task.tables.usage["encoder_bytes"][:, j].sum())
        if held is not None:
            in_memory = [
                *task.tables.usage["held_bytes"][matrices, j],
                *(task.tables.usage["held_bytes"][at] for at in tables),
            ]
            masked = masked or math.fsum(in_memory) > held.capacity
        masked = masked or not _keeps_rates(task, [*((i, j) for i in range(task.num_matrices)), *tables])
        if task.legal[matrices, j].all() and not masked and size <= capacity:
            loss = math.fsum([*task.value[matrices, j], table_loss])
            chosen = np.array([*[j] * task.num_matrices, *(column for _, column in tables)])
            error = fixed_std_error(task, loss, chosen)
            rival = UniformPlan(choice=c.name, encoder_bytes=size, predicted_loss=loss, predicted_std_error=error)
            uniform_plans.append((j, rival))
    least = np.zeros(len(task.choices)) if task.goal is None else task.tables.usage[task.goal][matrices].sum(axis=0)
    kept = [(least[j], rival.predicted_loss, rival) for j, rival in uniform_plans if rival.predicted_loss <= max_loss]
    return [uniform for *_, uniform in sorted(kept, key=lambda row: row[:2])][:3]


def _keeps_rates(task: PlanningTask, chosen: Sequence[tuple[int, int]]) -> bool:
    """Whether a plan of a decoder meets the limits on time, energy and traffic, by their separable upper bounds.

    Args:
        task: scores, limits and hardware.
        chosen: item and option of each choice.
    """
    items, options = (list(indices) for indices in zip(*chosen, strict=True))
    for row in task.rows if task.profile.causal else ():
        used = SCHEDULED.get(row.resource, row.resource)
        if row.resource in (*SCHEDULED, "dram_bytes", "bops"):
            most = row.stated - task.tables.fixed[used] if row.resource in SCHEDULED else row.capacity
            if task.tables.usage[used][items, options].sum() > most:
                return False
    return True


def median_random_loss(task: PlanningTask, plan: Plan) -> float | None:
    """Return the median predicted loss of a few random plans that fill the same limits; None if there is none.

    Args:
        task: scores, limits and hardware.
        plan: its solution; the random plans keep its choices for embedding tables.
    """
    if task.goal is not None:
        return None  # under a limit on loss, random plans use it up, so their loss says nothing
    problem = replace(plan.problem, pins=_table_pins(task, plan))
    losses = [rival.value for rival in random_plans(problem, RANDOM_PLANS)]
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
