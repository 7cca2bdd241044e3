"""Solve a task jointly with the widths of its inputs: more bits where few lose too much and the limits allow them.

Products of 16-bit inputs take longer than 8-bit ones, and 4-bit ones less where the device has them, so under a limit
on latency or energy the widths of inputs compete with the bits of weights. Inputs that would gain from another width
than the device's own are ordered: those that need more bits by the loss saved per second spent, then those that can do
with fewer by the seconds saved per loss added. For several counts n, the first n inputs get their width, the weights
are solved again at the resulting prices, and the plan with the least loss is kept. Its proof holds for its own widths.
A lower bound on the loss over all these widths takes the weights as if every input had its fewest bits, and the inputs
as if each had its best width; the search ends when a plan reaches it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import InfeasibleError
from ..spec.activations import ActivationChoice, input_bits, planned_activations
from ..spec.planned import PlannedActivation
from .engine_inputs import runnable_inputs
from .program import PlanningTask
from .solving import Plan, SolverOptions
from .task_solver import solve_task

MOST_SOLVES = 9  # of the weights, one for each count of inputs in another width
CLOSE = 1e-6  # relative distance from the least loss at which nothing is left to gain


@dataclass(frozen=True, slots=True)
class _Answer:
    task: PlanningTask
    plan: Plan
    planned: tuple[PlannedActivation, ...]

    @property
    def loss(self) -> float:
        """Sum of the scores of weights and inputs."""
        return self.task.sum_of_scores(self.plan.storage) + _loss(self.planned)


def solve_rounded(
    task: PlanningTask, options: SolverOptions, activations: Sequence[ActivationChoice]
) -> tuple[PlanningTask, Plan, tuple[PlannedActivation, ...]]:
    """Solve, and choose how the inputs of matrices are quantized.

    If an input gets another width than the device's own, all costs are computed again and the task is solved again.

    Args:
        task: scores, limits and hardware.
        options: solver, time limit, gap.
        activations: choices for the inputs; empty leaves the inputs in floating point.

    Returns:
        The task with its final costs, its best plan, and how each input is quantized.

    Raises:
        InfeasibleError: no plan meets every limit.
        UsageError: none of the `activations` was scored.
    """
    activations = runnable_inputs(task, activations)
    if activations and task.target is not None and task.scores.activations is not None:
        task = task.with_static_inputs(module for modules in task.scores.activations.inputs for module in modules)
    if not activations:
        return task, solve_task(task, options), ()
    device, widths = task.device, {choice.bits for choice in activations}
    if len(widths) == 1:
        planned = planned_activations(task.scores, activations, 0.0)
        if device is not None and device.activation_bits not in widths:
            task = task.reading(input_bits(planned))
        return task, solve_task(task, options), planned
    try:
        plan = solve_task(task, options)
    except InfeasibleError:
        if device is None or min(widths) >= device.activation_bits:
            raise
        return solve_rounded(task, options, [choice for choice in activations if choice.bits == min(widths)])
    planned = planned_activations(task.scores, activations, task.sum_of_scores(plan.storage))
    if device is None or all(bits == device.activation_bits for bits in input_bits(planned).values()):
        return task, plan, planned
    own = [choice for choice in activations if choice.bits == device.activation_bits]
    if task.goal is not None or not own:
        task = task.reading(input_bits(planned))
        return task, solve_task(task, options), planned
    answer = _searched(_Answer(task, plan, planned_activations(task.scores, own, 0.0)), planned, options)
    return answer.task, answer.plan, answer.planned


def _searched(own: _Answer, wanted: tuple[PlannedActivation, ...], options: SolverOptions) -> _Answer:
    """Return the answer of least loss among those that give their first inputs the wanted widths.

    Args:
        own: the answer with every input in the device's own width.
        wanted: how each input would be quantized without limits, in the order of `own`.
        options: solver, time limit, gap of each solve.
    """
    order = _by_gain(own, wanted)
    answers: dict[int, _Answer | None] = {0: own}

    def loss(count: int) -> float:
        if count not in answers:
            answers[count] = _with_first(own, wanted, order[:count], options)
        found = answers[count]
        return math.inf if found is None else found.loss

    narrower = [at for at in order if wanted[at].bits < own.planned[at].bits]
    loosest = (_with_first(own, wanted, narrower, options) if narrower else None) or own
    best_each = [min(pair, key=lambda item: item.predicted_loss) for pair in zip(own.planned, wanted, strict=True)]
    least = loosest.task.sum_of_scores(loosest.plan.storage) + _loss(best_each)
    low, high = 0, len(order)
    best = high if loss(high) <= loss(0) else 0
    while loss(best) > least * (1 + CLOSE) and high - low > 1 and len(answers) < MOST_SOLVES:
        middle = [
            at for at in {low + (high - low) // 4, (low + high) // 2, high - (high - low) // 4} if low < at < high
        ]
        best = min([best, *sorted(middle)], key=loss)
        counts = sorted(answers)
        at = counts.index(best)
        bounds = counts[max(at - 1, 0)], counts[min(at + 1, len(counts) - 1)]
        if bounds == (low, high):
            break
        low, high = bounds
    found = answers[best]
    return own if found is None else found


def _by_gain(own: _Answer, wanted: Sequence[PlannedActivation]) -> list[int]:
    """Return the inputs that want another width: more bits first, and each way the best exchange of loss and time."""
    task = own.task
    wide = task.reading(input_bits(wanted))
    row = {item.module: i for i, item in enumerate(task.items)}
    column = {module: task.tables.options.index(stored) for module, stored in own.plan.storage.items()}

    def seconds(item: PlannedActivation, tables: Mapping[str, object]) -> float:
        latency: object = tables["latency_bound_s"]
        return math.fsum(float(latency[row[m], column[m]]) for m in item.modules)  # type: ignore[index]

    gains = {}
    for at, (plain, item) in enumerate(zip(own.planned, wanted, strict=True)):
        if plain.bits != item.bits:
            cost = seconds(item, wide.tables.usage) - seconds(item, task.tables.usage)
            gains[at] = (plain.predicted_loss - item.predicted_loss) / max(abs(cost), 1e-12)
    return sorted(gains, key=gains.__getitem__, reverse=True)


def _with_first(
    own: _Answer, wanted: Sequence[PlannedActivation], chosen: Sequence[int], options: SolverOptions
) -> _Answer | None:
    """Return the answer with the wanted widths of some inputs; None if no plan meets the limits."""
    planned = tuple(wanted[at] if at in chosen else plain for at, plain in enumerate(own.planned))
    task = own.task.reading(input_bits(planned))
    try:
        return _Answer(task, solve_task(task, options), planned)
    except InfeasibleError:
        return None


def _loss(planned: Sequence[PlannedActivation]) -> float:
    return math.fsum(item.predicted_loss for item in planned)
