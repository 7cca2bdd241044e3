"""A planning task to a proven plan.

Two questions are asked in turn. First the bits: least predicted loss under every limit. Then, bits fixed, which
matrices stay in the scratchpad: least energy. Only where a limit on traffic, latency or energy binds do both become
one program, because then residency decides what bits are possible.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from solvers import ChoiceProblem, ChoiceSolution, binding_rows, price, random_plans, relative_gap, shadow_price, top_k

from ..costs.operations import Workload
from ..errors import InfeasibleError, UsageError
from ..spec.activations import ActivationChoice, input_bits, planned_activations
from ..spec.allocation import Allocation, Limit, PlannedActivation, UniformPlan
from ..spec.limits import Limits, Row, measured, tightest
from ..spec.scores import ScoreTable
from .assembly import Judgement, Proof, assemble, stored_bytes, total_stored_bytes, with_activations
from .constraints import PlanConstraints
from .cross_fit import cross_fit, fixed_std_error
from .program import LOSS, RESIDENT_GOALS, PlanningTask
from .scheduled_limits import broken, enforced, proven_against
from .solving import Plan, SolverOptions, attempt, why_infeasible

if TYPE_CHECKING:
    from hwmodels import Device

MB, MS = 1_000_000, 1e-3
RANDOM_PLANS = 3
GOAL_TOLERANCE = {"latency_bound_s": 1e-3, "energy_bound_j": 1e-3}
"""Part of the least latency or energy that is given up for less loss: far below what a model of either is exact to.

The other goals are sums of whole numbers; of equal ones the solver takes the least loss.
"""


def allocate(
    scores: ScoreTable,
    limits: Limits,
    *,
    device: Device | None = None,
    workload: Workload | None = None,
    activations: Sequence[ActivationChoice] = (),
    options: SolverOptions | None = None,
    constraints: PlanConstraints | None = None,
) -> Allocation:
    """Choose bits and groups for every matrix and scored table with least predicted loss under all limits.

    Args:
        scores: predicted loss of each choice.
        limits: what the user asked for.
        device: target hardware; its own limits and formats count too.
        workload: sentences and tokens of one inference.
        activations: choices for the inputs of matrices; none leaves them as they are.
        options: solver, time limit, gap.
        constraints: what the plan must satisfy besides the limits; None is nothing.

    Raises:
        InfeasibleError: no plan keeps every limit; the message holds the nearest feasible value.
        UsageError: a constraint that leaves no choice, a name that nothing has, a limit without a device.
    """
    task = PlanningTask(scores, limits, device=device, workload=workload, constraints=constraints)
    task, plan, rounded = solve_rounded(task, options or SolverOptions(), activations)
    return allocation_of(task, plan, rounded)


def solve_rounded(
    task: PlanningTask, options: SolverOptions, activations: Sequence[ActivationChoice]
) -> tuple[PlanningTask, Plan, tuple[PlannedActivation, ...]]:
    """Solve, and round the inputs of matrices too; widths that the device does not keep anyway are priced anew.

    Args:
        task: scores, limits and hardware.
        options: how to solve.
        activations: choices for the inputs; none leaves them as they are.

    Returns:
        The task as it was priced, its answer, and how each input is rounded.

    Raises:
        InfeasibleError: no plan keeps every limit.
        UsageError: none of them was scored.
    """
    plan = solve_task(task, options)
    if not activations:
        return task, plan, ()
    chosen = [task.choices.index(plan.storage[item.module].choice) for item in task.items]
    loss = math.fsum(task.value[range(len(chosen)), chosen].tolist())
    planned = planned_activations(task.scores, activations, loss)
    found = input_bits(planned)
    if task.device is not None and any(bits != task.device.activation_bits for bits in found.values()):
        task = task.reading(found)
        plan = solve_task(task, options)
    return task, plan, planned


def solve_task(task: PlanningTask, options: SolverOptions) -> Plan:
    """Solve, place, simulate, and check the limits that do not add up.

    Raises:
        InfeasibleError: no plan keeps every limit.
    """
    problem = task.problem(task.capacity(), joint=task.joint)
    # Bits and residency together under a loss are the hardest of all: a fixed effort, and the gap that it leaves.
    quick = options.solver == "auto" and task.goal in RESIDENT_GOALS
    solution = attempt(problem, replace(options, solver="lagrangian") if quick else options)
    if solution.choice is None:
        raise InfeasibleError(why_infeasible(task, problem, solution))
    if task.goal in GOAL_TOLERANCE:
        solution = _least_loss(task, problem, solution, replace(options, solver="lagrangian") if quick else options)
    plan = Plan(problem, solution, *task.placed(solution.choice or ()))
    return enforced(task, plan, options) if broken(task, plan) else plan


def _least_loss(
    task: PlanningTask, problem: ChoiceProblem, solution: ChoiceSolution, options: SolverOptions
) -> ChoiceSolution:
    """Return the plan of least loss among those whose goal is as good as the least, to `GOAL_TOLERANCE`.

    Args:
        task: what was asked, with a goal.
        problem: the program of least goal under a loss.
        solution: its answer, whose lower bound stays the proof.
        options: how to solve.
    """
    goal = str(task.goal)
    room = GOAL_TOLERANCE[goal] * (solution.value + task.fixed(goal))
    capacity = {**problem.capacity, goal: solution.value + room}
    second = replace(problem, value=np.where(problem.mask(), problem.usage[LOSS], np.nan), capacity=capacity)
    found = attempt(replace(second, tie_break=goal), options)
    if found.choice is None:
        return solution
    value, usage = price(problem, found.choice)
    answer = replace(
        solution, choice=found.choice, value=value, usage=usage, binding=binding_rows(problem, found.choice)
    )
    return proven_against(answer, solution.lower_bound)


def top_plans(
    task: PlanningTask,
    best: Plan,
    options: SolverOptions,
    count: int,
    within: float = math.inf,
    apart: int | None = None,
) -> list[Plan]:
    """Return up to `count` different plans, the best first, each the best that is `apart` from those before it.

    Args:
        task: what `best` answers.
        best: the answer of `solve_task`.
        options: solver, time limit and gap of each.
        count: how many at most.
        within: largest distance from the best value, as a part of it.
        apart: in how many matrices two plans differ at least; a tenth of them when None, since plans that differ in
            two are measured alike.

    Raises:
        UsageError: `apart` is more than there are.
    """
    apart = max(1, len(task.items) // 10) if apart is None else apart
    if apart > len(task.items):
        raise UsageError(f"`apart` {apart}: there are {len(task.items)} matrices and scored tables.")
    rivals = top_k(
        best.problem, count, within, distance=apart, solver=options.solver, time_limit_s=options.time_limit_s,
        relative_gap=options.relative_gap,
    )  # fmt: skip
    others = [rival for rival in rivals if rival.choice is not None and rival.choice != best.solution.choice]
    plans = [Plan(best.problem, rival, *task.placed(rival.choice or ())) for rival in others]
    if best.tightened:  # what is proven under tightened sums is not proven under the limits
        plans = [replace(plan, solution=proven_against(plan.solution, best.solution.lower_bound)) for plan in plans]
    return [best, *(plan for plan in plans if not broken(task, plan))][:count]


def allocation_of(
    task: PlanningTask, plan: Plan, activations: Sequence[PlannedActivation] = (), *, answer: bool = True
) -> Allocation:
    """Put the solved plan together with its proof.

    Args:
        task: what was asked.
        plan: what was found.
        activations: how inputs are rounded.
        answer: the plan is the program's own answer, which cross-fitting can judge; not one of a shortlist, or refined.
    """
    solution = plan.solution
    fixed = 0.0 if task.goal is None else task.fixed(task.goal)
    judged = cross_fit(task, _judged_program(task, plan)) if answer else None
    proof = Proof(
        status=solution.status.value,
        objective=task.goal or LOSS,
        gap=relative_gap(solution.value + fixed, solution.lower_bound + fixed),
        lower_bound=solution.lower_bound + fixed,
        solver=solution.solver,
        limits=tuple(_limit(task, plan, row) for row in task.rows),
        uniform=tuple(_uniform(task, plan)),
        random_loss=_random(task, plan),
        next_mb_gain=_next_mb(task, plan, judged) if answer else None,
        next_ms_gain=_next_ms(task, plan, judged) if answer else None,
        judged=judged,
    )
    plain = assemble(task.scores, plan.storage, proof, plan.report, task.workload)
    plain = with_activations(plain, tuple(activations)) if activations else plain
    if task.constraints.max_loss is None:
        return plain
    limit = Limit(
        resource=LOSS,
        capacity=task.constraints.max_loss,
        used=plain.sum_of_scores,
        source="--max-loss",
        binds=_loss_binds(task, plan),
    )
    return plain.model_copy(update={"limits": (limit, *plain.limits)})


def _judged_program(task: PlanningTask, plan: Plan) -> ChoiceProblem:
    """Return the program that other text is asked: the plan's own; under a goal, least loss for as much of the goal."""
    if task.goal is None:
        return plan.problem
    capacity = {name: limit for name, limit in plan.problem.capacity.items() if name != LOSS}
    capacity[task.goal] = plan.solution.usage[task.goal] * (1 + 1e-9)
    return replace(plan.problem, capacity=capacity, tie_break=task.goal)


def _loss_binds(task: PlanningTask, plan: Plan) -> bool:
    """Say whether the goal could be lower without the limit on loss, by more than what is given up for less loss.

    What is given up is in the plan, but not in its lower bound, so the bound is what is compared.
    """
    if task.goal is None or LOSS not in plan.solution.binding:
        return False
    free = {name: limit for name, limit in plan.problem.capacity.items() if name != LOSS}
    solver = "lagrangian" if task.goal in RESIDENT_GOALS else "auto"
    least = attempt(replace(plan.problem, capacity=free), SolverOptions(solver)).value + task.fixed(task.goal)
    limited = plan.solution.lower_bound if task.goal in GOAL_TOLERANCE else plan.solution.value
    return least < (limited + task.fixed(task.goal)) * (1 - GOAL_TOLERANCE.get(task.goal, 0.0)) * (1 - 1e-9)


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
    """The three best plans that give every matrix one choice within the limits on bytes and loss, tables as here."""
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
    most = math.inf if task.constraints.max_loss is None else task.constraints.max_loss
    found = []
    for j, c in enumerate(task.choices):
        masked = any((i, j) in task.tables.masks for i in range(task.num_matrices))
        size = int(task.tables.usage["encoder_bytes"][:, j].sum())
        if task.legal[matrices, j].all() and not masked and size <= capacity:
            loss = math.fsum([*task.value[matrices, j], of_tables])
            chosen = np.array([*[j] * task.num_matrices, *(column for _, column in tables)])
            error = fixed_std_error(task, loss, chosen)
            rival = UniformPlan(choice=c.name, encoder_bytes=size, predicted_loss=loss, predicted_std_error=error)
            found.append((j, rival))
    least = np.zeros(len(task.choices)) if task.goal is None else task.usage(task.goal)[matrices].sum(axis=0)
    kept = [(least[j], uniform.predicted_loss, uniform) for j, uniform in found if uniform.predicted_loss <= most]
    return [uniform for *_, uniform in sorted(kept, key=lambda row: row[:2])][:3]


def _random(task: PlanningTask, plan: Plan) -> float | None:
    """Median loss of a few random plans that fill the same limits, with this plan's tables; None without any."""
    if task.goal is not None:
        return None  # random plans that keep a loss are no rivals: they fill it
    problem = replace(plan.problem, pins=_table_pins(task, plan))
    losses = [rival.value for rival in random_plans(problem, RANDOM_PLANS)]
    return statistics.median(losses) if losses else None


def _table_pins(task: PlanningTask, plan: Plan) -> dict[str, str]:
    return {item.module: plan.storage[item.module].choice.name for item in task.searched_tables}


def _next_mb(task: PlanningTask, plan: Plan, judged: Judgement | None) -> float | None:
    """Return the predicted loss that one more MB saves, solved again; in the unit of the prediction beside it."""
    limited = [name for name in ("encoder_bytes", "total_bytes") if name in plan.problem.capacity]
    if not limited or plan.tightened or task.goal is not None:
        return None  # under a scheduled limit another MB would have to be tightened anew
    resource = next((name for name in limited if name in plan.solution.binding), limited[0])
    if judged is None:
        return shadow_price(plan.problem, plan.solution, resource, MB)
    capacity = {**plan.problem.capacity, resource: plan.problem.capacity[resource] + MB}
    wider = cross_fit(task, replace(plan.problem, capacity=capacity))
    return None if wider is None else judged.loss - wider.loss


def _next_ms(task: PlanningTask, plan: Plan, judged: Judgement | None) -> float | None:
    """Return the predicted loss that one more millisecond saves where latency binds, solved again."""
    if "latency_s" not in plan.tightened or task.goal is not None:
        return None
    stated = next(row.stated for row in task.scheduled if row.measure == "latency_s")
    wider_task = task.under(replace(task.limits, latency_s=stated + MS))
    wider = solve_task(wider_task, SolverOptions())
    if judged is None:
        return max(0.0, plan.solution.value - wider.solution.value)
    again = cross_fit(wider_task, wider.problem)
    return None if again is None else judged.loss - again.loss
