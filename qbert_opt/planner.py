"""A planning task to a proven plan.

Two questions are asked in turn. First the bits: least predicted loss under every limit. Then, bits fixed, which
matrices stay in the scratchpad: least energy. Only where a limit on traffic, latency or energy binds do both become
one program, because then residency decides what bits are possible.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from solvers import ChoiceProblem, ChoiceSolution, SolverError, Status, random_plans, shadow_price, solve
from solvers.solution import PROVEN_GAP

from .allocation import Allocation, Limit, UniformPlan
from .errors import InfeasibleError, UsageError
from .limits import Limits, Row, measured, shown, tightest
from .operations import Storage, Workload
from .planned import Proof, assemble, stored_bytes, total_stored_bytes
from .programs import SCHEDULED, PlanningTask
from .scores import ScoreTable

if TYPE_CHECKING:
    from hwmodels.device import Device
    from hwmodels.simulate import CostReport

MB = 1_000_000
MAX_TIGHTENINGS = 12
RANDOM_PLANS = 3
TIGHTENING_GAP = 1e-3  # of plans under a scheduled limit, whose proof is against the plan without it anyway


@dataclass(frozen=True, slots=True)
class SolverOptions:
    """How to solve: a file in `solvers/methods`, seconds, and where the search may stop."""

    solver: str = "auto"
    time_limit_s: float | None = None
    relative_gap: float = 1e-6


@dataclass(frozen=True, slots=True)
class Plan:
    """A solved program with what stays on chip; `tightened` are the scheduled limits that had to be enforced."""

    problem: ChoiceProblem
    solution: ChoiceSolution
    storage: Mapping[str, Storage]
    report: CostReport | None
    tightened: tuple[str, ...] = ()


def allocate(
    scores: ScoreTable,
    limits: Limits,
    *,
    device: Device | None = None,
    workload: Workload | None = None,
    bits: Sequence[int] | None = None,
    groupings: Sequence[str] | None = None,
    table_bits: Sequence[int] | None = None,
    pins: Mapping[str, int] | None = None,
    options: SolverOptions | None = None,
) -> Allocation:
    """Choose bits and groups for every matrix and scored table with least predicted loss under all limits.

    Args:
        scores: predicted loss of each choice.
        limits: what the user asked for.
        device: target hardware; its own limits and formats count too.
        workload: sentences and tokens of one inference.
        bits: bit widths to choose from; all that were scored when None.
        groupings: groupings to choose from; all that were scored when None.
        table_bits: bit widths of embedding tables to choose from; all that were scored when None.
        pins: bits of matrices and tables whose module name contains the key.
        options: solver, time limit, gap.

    Raises:
        InfeasibleError: no plan keeps every limit; the message holds the nearest feasible value.
        UsageError: a filter that leaves nothing, a pin that matches nothing, a limit without a device.
    """
    task = PlanningTask(
        scores, limits, device=device, workload=workload, bits=bits, groupings=groupings, table_bits=table_bits,
        pins=pins,
    )  # fmt: skip
    return allocation_of(task, solve_task(task, options or SolverOptions()))


def solve_task(task: PlanningTask, options: SolverOptions) -> Plan:
    """Solve, place, simulate, and check the limits that do not add up.

    Raises:
        InfeasibleError: no plan keeps every limit.
    """
    problem = task.problem(task.capacity(), joint="dram_bytes" in task.hard and task.has_scratchpad)
    solution = _attempt(problem, options)
    if solution.choice is None:
        raise InfeasibleError(_why_infeasible(task, problem, solution, options))
    plan = Plan(problem, solution, *task.placed(solution.choice))
    return _tightened(task, plan, options) if _broken(task, plan) else plan


def allocation_of(task: PlanningTask, plan: Plan) -> Allocation:
    """Put the solved plan together with its proof."""
    solution = plan.solution
    proof = Proof(
        status=solution.status.value,
        gap=solution.gap,
        lower_bound=solution.lower_bound,
        solver=solution.solver,
        limits=tuple(_limit(task, plan, row) for row in task.rows),
        uniform=tuple(_uniform(task, plan)),
        random_loss=_random(task, plan),
        next_mb_gain=_next_mb(plan),
    )
    return assemble(task.scores, plan.storage, proof, plan.report, task.workload)


def _attempt(problem: ChoiceProblem, options: SolverOptions) -> ChoiceSolution:
    try:
        return solve(problem, options.solver, time_limit_s=options.time_limit_s, relative_gap=options.relative_gap)
    except SolverError as error:
        raise UsageError(str(error)) from None


def _why_infeasible(
    task: PlanningTask, problem: ChoiceProblem, solution: ChoiceSolution, options: SolverOptions
) -> str:
    if solution.status is Status.TIME_LIMIT:
        return f"no plan found within {options.time_limit_s} s. Allow more time."
    parts = []
    for resource in solution.conflicts or tuple(solution.nearest_capacity):
        row, nearest = task.hard.get(resource), solution.nearest_capacity.get(resource)
        if row is None or nearest is None:
            continue  # the scratchpad and the user's pins are no limits that a number could be raised of
        unit = task.limits.inferences_per_s or 1.0 if row.measure == "bandwidth_bytes_per_s" else 1.0
        taken = row.stated - row.capacity * unit
        floor, ceiling = nearest * unit + taken, task.ceiling(problem, resource) * unit + taken
        parts.append(
            f"{row.source} = {shown(row.measure, row.stated)} is below the floor: nearest feasible "
            f"{shown(row.measure, floor)}, ceiling {shown(row.measure, ceiling)}; binding limit {row.measure}"
        )
    return "no plan keeps every limit: " + "; ".join(parts) + ". Raise it, or allow fewer --bits."


def _broken(task: PlanningTask, plan: Plan) -> list[Row]:
    if plan.report is None:
        return []
    return [row for row in task.scheduled if measured(plan.report, row.measure) > row.stated]


def _tightened(task: PlanningTask, relaxed: Plan, options: SolverOptions) -> Plan:
    """Enforce limits on scheduled values: cap the separable bound of those that break, lower until they hold.

    The plan without these limits bounds every plan with them from below, so the gap stays proven.
    """
    options = replace(options, relative_gap=max(options.relative_gap, TIGHTENING_GAP))
    caps: dict[str, float] = {}
    plan = relaxed
    for _ in range(MAX_TIGHTENINGS):
        broken = _broken(task, plan)
        if not broken:
            return replace(plan, solution=_proven_against(plan.solution, relaxed.solution), tightened=tuple(caps))
        for row in broken:
            if row.measure not in caps:
                _check_reachable(task, row, options)
                caps[row.measure] = 1.02 * row.stated - _fixed_bound(task, row.measure)
            else:
                overshoot = measured(plan.report, row.measure) - row.stated
                used = plan.solution.usage[SCHEDULED[row.measure]]
                caps[row.measure] = min(caps[row.measure], used) - 1.01 * overshoot
        capped = {SCHEDULED[measure]: max(0.0, cap) for measure, cap in caps.items()}
        problem = task.problem(task.capacity() | capped, joint=task.has_scratchpad)
        solution = _attempt(problem, options)
        if solution.choice is None:
            break
        plan = Plan(problem, solution, *task.placed(solution.choice))
    sources = ", ".join(row.source for row in task.scheduled)
    raise InfeasibleError(f"{sources}: no plan found that keeps all of them on the schedule. Raise one of them.")


def _proven_against(solution: ChoiceSolution, relaxed: ChoiceSolution) -> ChoiceSolution:
    gap = max(0.0, (solution.value - relaxed.lower_bound) / max(abs(solution.value), 1e-300))
    status = Status.OPTIMAL if gap <= PROVEN_GAP else Status.FEASIBLE
    return replace(solution, status=status, lower_bound=relaxed.lower_bound, gap=gap)


def _check_reachable(task: PlanningTask, row: Row, options: SolverOptions) -> None:
    """Refuse a scheduled limit that not even the plan of least bound keeps; say what that plan reaches."""
    problem = task.problem(task.capacity(), joint=task.has_scratchpad)
    bound = problem.usage[SCHEDULED[row.resource]]
    least = _attempt(replace(problem, value=np.where(problem.mask(), bound, np.nan)), options)
    if least.choice is None:
        raise InfeasibleError(_why_infeasible(task, problem, least, options))
    _, report = task.placed(least.choice)
    reached = measured(report, row.measure)
    if reached > row.stated:
        raise InfeasibleError(
            f"no plan keeps every limit: {row.source} = {shown(row.measure, row.stated)} is below the floor: "
            f"nearest feasible {shown(row.measure, reached)} within the other limits; "
            f"binding limit {row.measure}. Raise it."
        )


def _fixed_bound(task: PlanningTask, measure: str) -> float:
    """What everything that is not searched takes of a separable bound."""
    fixed = task.tables.fixed
    if task.device is None or measure == "latency_s":
        return fixed.get("latency_bound_s", 0.0)
    return fixed["dynamic_energy_j"] + task.device.power.static_w * fixed["latency_bound_s"]


def _limit(task: PlanningTask, plan: Plan, row: Row) -> Limit:
    encoder_bytes = stored_bytes(task.profile, plan.storage)
    own = {"encoder_bytes": encoder_bytes, "total_bytes": total_stored_bytes(task.profile, plan.storage)}
    used = own[row.measure] if row.measure in own else measured(plan.report, row.measure)
    binds = row.resource in plan.solution.binding and tightest(task.rows)[row.resource] is row
    return Limit(
        resource=row.measure,
        capacity=row.stated,
        used=used,
        source=row.source,
        binds=binds or row.measure in plan.tightened,
    )


def _uniform(task: PlanningTask, plan: Plan) -> list[UniformPlan]:
    """The three best plans that give every matrix one choice within the limits on bytes, tables as in this plan."""
    matrices = slice(0, task.num_matrices)
    names = [c.name for c in task.choices]
    tables = [
        (i, names.index(plan.storage[item.module].choice.name))
        for i, item in enumerate(task.items)
        if i >= task.num_matrices
    ]
    of_tables = math.fsum(task.value[at] for at in tables)
    taken = {"encoder_bytes": 0.0, "total_bytes": sum(task.tables.usage["total_bytes"][at] for at in tables)}
    rows = [task.hard[name] for name in taken if name in task.hard]
    capacity = min((row.capacity - taken[row.resource] for row in rows), default=math.inf)
    found = []
    for j, c in enumerate(task.choices):
        masked = any((i, j) in task.tables.masks for i in range(task.num_matrices))
        size = int(task.tables.usage["encoder_bytes"][:, j].sum())
        if task.legal[matrices, j].all() and not masked and size <= capacity:
            loss = math.fsum([*task.value[matrices, j], of_tables])
            found.append(UniformPlan(choice=c.name, encoder_bytes=size, predicted_loss=loss))
    return sorted(found, key=lambda plan: plan.predicted_loss)[:3]


def _random(task: PlanningTask, plan: Plan) -> float | None:
    """Median loss of a few random plans that fill the same limits, with this plan's tables; None without any."""
    problem = replace(plan.problem, pins=_table_pins(task, plan))
    losses = [rival.value for rival in random_plans(problem, RANDOM_PLANS)]
    return statistics.median(losses) if losses else None


def _table_pins(task: PlanningTask, plan: Plan) -> dict[str, str]:
    return {item.module: plan.storage[item.module].choice.name for item in task.searched_tables}


def _next_mb(plan: Plan) -> float | None:
    limited = [name for name in ("encoder_bytes", "total_bytes") if name in plan.problem.capacity]
    if not limited:
        return None
    resource = next((name for name in limited if name in plan.solution.binding), limited[0])
    gap = TIGHTENING_GAP if plan.tightened else PROVEN_GAP
    return shadow_price(plan.problem, plan.solution, resource, MB, relative_gap=gap)
