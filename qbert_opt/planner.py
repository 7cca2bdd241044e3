"""A planning task to a proven plan.

Two questions are asked in turn. First the bits: least predicted loss under every limit. Then, bits fixed, which
matrices stay in the scratchpad: least energy. Only where a limit on traffic, latency or energy binds do both become
one program, because then residency decides what bits are possible.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from solvers import random_plans, shadow_price

from .activations import ActivationChoice, input_bits, planned_activations
from .allocation import Allocation, Limit, UniformPlan
from .cross_fit import cross_fit
from .errors import InfeasibleError
from .limits import Limits, Row, measured, tightest
from .operations import Workload
from .planned import Proof, assemble, stored_bytes, total_stored_bytes, with_activations
from .programs import PlanningTask
from .scheduled import broken, enforced
from .scores import ScoreTable
from .solved import Plan, SolverOptions, attempt, why_infeasible

if TYPE_CHECKING:
    from hwmodels.device import Device

MB = 1_000_000
RANDOM_PLANS = 3


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
    activations: Sequence[ActivationChoice] = (),
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
        activations: choices for the inputs of matrices; none leaves them as they are.
        options: solver, time limit, gap.

    Raises:
        InfeasibleError: no plan keeps every limit; the message holds the nearest feasible value.
        UsageError: a filter that leaves nothing, a pin that matches nothing, a limit without a device.
    """
    task = PlanningTask(
        scores, limits, device=device, workload=workload, bits=bits, groupings=groupings, table_bits=table_bits,
        pins=pins,
    )  # fmt: skip
    return solve_rounded(task, options or SolverOptions(), activations)[1]


def solve_rounded(
    task: PlanningTask, options: SolverOptions, activations: Sequence[ActivationChoice]
) -> tuple[Plan, Allocation]:
    """Solve, and round the inputs of matrices too; widths that the device does not keep anyway are priced anew.

    Args:
        task: scores, limits and hardware.
        options: how to solve.
        activations: choices for the inputs; none leaves them as they are.

    Raises:
        InfeasibleError: no plan keeps every limit.
        UsageError: none of them was scored.
    """
    plan = solve_task(task, options)
    allocation = allocation_of(task, plan)
    if not activations:
        return plan, allocation
    planned = planned_activations(task.scores, activations, allocation.predicted_loss)
    found = input_bits(planned)
    if task.device is not None and any(bits != task.device.activation_bits for bits in found.values()):
        task = task.reading(found)
        plan = solve_task(task, options)
        allocation = allocation_of(task, plan)
    return plan, with_activations(allocation, planned)


def solve_task(task: PlanningTask, options: SolverOptions) -> Plan:
    """Solve, place, simulate, and check the limits that do not add up.

    Raises:
        InfeasibleError: no plan keeps every limit.
    """
    problem = task.problem(task.capacity(), joint="dram_bytes" in task.hard and task.has_scratchpad)
    solution = attempt(problem, options)
    if solution.choice is None:
        raise InfeasibleError(why_infeasible(task, problem, solution, options))
    plan = Plan(problem, solution, *task.placed(solution.choice))
    return enforced(task, plan, options) if broken(task, plan) else plan


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
        cross_fitted=cross_fit(task, plan.problem),
    )
    return assemble(task.scores, plan.storage, proof, plan.report, task.workload)


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
    if not limited or plan.tightened:
        return None  # under a scheduled limit another MB would have to be tightened anew
    resource = next((name for name in limited if name in plan.solution.binding), limited[0])
    return shadow_price(plan.problem, plan.solution, resource, MB)
