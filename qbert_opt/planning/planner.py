"""The planner: from scores and limits to the plan of least predicted loss, with its proof."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from solvers import relative_gap

from ..costs.devices import given_device
from ..costs.workload import Workload
from ..spec.activations import ActivationChoice
from ..spec.allocation import Allocation
from ..spec.limits import Limits, Row, tightest
from ..spec.planned import Limit, PlannedActivation
from ..spec.scores import ScoreTable
from .assembly import Proof, assemble, with_activations
from .cache_widths import cache_loss
from .comparisons import best_uniform_plans, gain_of_next_mb, gain_of_next_ms, median_random_loss
from .constraints import PlanConstraints
from .cross_fit import cross_fit, judged_program
from .loss_limit import solve_asked
from .program import LOSS, RESIDENT_GOALS, PlanningTask
from .solving import Plan, SolverOptions, attempt, used
from .task_solver import GOAL_TOLERANCE

if TYPE_CHECKING:
    from hwmodels import Device


def allocate(
    scores: ScoreTable,
    limits: Limits,
    *,
    device: Device | str | None = None,
    workload: Workload | None = None,
    activations: Sequence[ActivationChoice] = (),
    options: SolverOptions | None = None,
    constraints: PlanConstraints | None = None,
) -> Allocation:
    """Choose bits and groups for every matrix and scored table with least predicted loss under all limits.

    Args:
        scores: predicted loss of each choice.
        limits: the user's limits.
        device: target hardware: a name, a YAML file or a loaded device. Its own limits apply too, and choices that it
            cannot run are excluded.
        workload: sentences and tokens of one inference; None is one sentence of 128 tokens.
        activations: choices for the inputs of matrices; empty leaves the inputs in floating point.
        options: solver, time limit, gap; None takes the defaults.
        constraints: what the plan must satisfy besides the limits; None adds no constraint.

    Returns:
        The plan, with its predicted loss and costs, and the proof of how close to the best it is.

    Raises:
        DeviceError: there is no such device, or its description is invalid.
        InfeasibleError: no plan meets every limit; the message gives the nearest feasible value, or the
            smallest predicted loss found.
        UsageError: a constraint leaves a matrix without a choice or names one that does not exist, or a limit needs a
            device.
    """
    target = None if device is None else given_device(device)
    task = PlanningTask(scores, limits, device=target, workload=workload, constraints=constraints)
    task, plan, rounded = solve_asked(task, options or SolverOptions(), activations)
    return allocation_of(task, plan, rounded)


def allocation_of(
    task: PlanningTask, plan: Plan, activations: Sequence[PlannedActivation] = (), *, answer: bool = True
) -> Allocation:
    """Assemble a solved plan with its proof.

    Args:
        task: scores, limits and hardware.
        plan: a solution of the task.
        activations: how inputs are quantized.
        answer: whether the plan is the solver's own optimum, so that cross-fitting can predict its loss; False for
            other plans of a shortlist and for refined plans.
    """
    solution = plan.solution
    fixed = 0.0 if task.goal is None else task.tables.fixed[task.goal]
    judged = plan.judged or (cross_fit(task, judged_program(task, plan)) if answer else None)
    proof = Proof(
        status=solution.status.value,
        objective=task.goal or LOSS,
        gap=relative_gap(solution.value + fixed, solution.lower_bound + fixed),
        lower_bound=solution.lower_bound + fixed,
        solver=solution.solver,
        limits=tuple(_limit(task, plan, row) for row in task.rows),
        uniform=tuple(best_uniform_plans(task, plan, activations)),
        random_loss=median_random_loss(task, plan),
        next_mb_gain=gain_of_next_mb(task, plan, judged) if answer else None,
        next_ms_gain=gain_of_next_ms(task, plan, judged) if answer else None,
        judged=judged,
    )
    plain = assemble(task.scores, plan.storage, proof, plan.report, task.workload, task.target, token=plan.token)
    plain = with_activations(plain, tuple(activations)) if activations else plain
    return plain.model_copy(update={"limits": (*_loss_limits(task, plan, plain), *plain.limits)})


def _loss_limits(task: PlanningTask, plan: Plan, plain: Allocation) -> Iterator[Limit]:
    """Yield the limit on the predicted loss, then the bound on the sum of scores that represents it in the program."""
    most, bound = task.constraints.max_loss, task.largest_sum
    if most is None or bound is None:
        return
    binds = _loss_binds(task, plan)
    yield Limit(resource="predicted_loss", capacity=most, used=plain.predicted_loss, source="--max-loss", binds=binds)
    if plain.folds:
        inputs = math.fsum(item.predicted_loss for item in plain.activations) + cache_loss(task)
        yield Limit(
            resource=LOSS,
            capacity=bound + inputs,
            used=plain.sum_of_scores,
            source="--max-loss in the program",
            binds=binds,
        )


def _loss_binds(task: PlanningTask, plan: Plan) -> bool:
    """Return whether the resource could go lower without the limit on loss, by more than `GOAL_TOLERANCE`.

    A plan uses that tolerance for a lower loss, so the comparison is with the value proven under the limit.
    """
    if task.goal is None or LOSS not in plan.solution.binding:
        return False
    without_loss = {name: limit for name, limit in plan.problem.capacity.items() if name != LOSS}
    solver = "lagrangian" if task.goal in RESIDENT_GOALS else "auto"
    fixed = task.tables.fixed[task.goal]
    least = attempt(replace(plan.problem, capacity=without_loss), SolverOptions(solver)).value + fixed
    tolerance = GOAL_TOLERANCE.get(task.goal)
    reached = plan.solution.value if tolerance is None else plan.solution.lower_bound
    return least < (reached + fixed) * (1 - (tolerance or 1e-9))


def _limit(task: PlanningTask, plan: Plan, row: Row) -> Limit:
    binds = row.resource in plan.solution.binding and tightest(task.rows)[row.resource] is row
    return Limit(
        resource=row.measure,
        capacity=row.stated,
        used=used(task, plan.storage, plan.report, plan.token, row),
        source=row.source,
        binds=binds or row.measure in plan.tightened,
    )
