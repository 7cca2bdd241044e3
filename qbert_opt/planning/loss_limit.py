"""Minimize a resource under a limit on the predicted loss.

The program can bound only the sum of scores, but the predicted loss of its answer is cross-fitted, and larger. So the
bound on the sum is lowered until the predicted loss of the answer keeps the limit. What is proven is the least use of
the resource among plans whose sum of scores is within the bound that was found; the plan reports both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import InfeasibleError, NoPlanFoundError
from ..spec.activations import ActivationChoice
from ..spec.limits import above
from ..spec.planned import PlannedActivation
from .cross_fit import cross_fit, judged_program
from .program import PlanningTask
from .solving import Plan, SolverOptions
from .task_solver import solve_rounded

ROUNDS = 7
AIM = 0.97  # share of the limit that is aimed at while no bound keeps it; the loss grows slower than the bound
CLOSE = 0.98  # ratio of a bound that keeps the limit to one that does not, at which the search ends
WITHIN = 1e-9  # relative rounding, where a bound is a plan's own sum


@dataclass(frozen=True, slots=True)
class Answer:
    """The plan of least use of a resource under one bound on the sum of scores.

    Attributes:
        task: with its final costs and the bound.
        plan: with its cross-fitted loss.
        activations: how each input is quantized.
        loss: predicted loss of the whole plan, inputs included.
    """

    task: PlanningTask
    plan: Plan
    activations: tuple[PlannedActivation, ...]
    loss: float


def solve_asked(
    task: PlanningTask, options: SolverOptions, activations: Sequence[ActivationChoice]
) -> tuple[PlanningTask, Plan, tuple[PlannedActivation, ...]]:
    """Solve a task; under a limit on the predicted loss, find the bound on the sum of scores that keeps the limit.

    Args:
        task: scores, limits and hardware.
        options: solver, time limit, gap of each solve.
        activations: choices for the inputs; empty leaves the inputs in floating point.

    Returns:
        As `solve_rounded`.

    Raises:
        InfeasibleError: no plan keeps every limit, or the plan of the least sum of scores loses more than the limit.
        NoPlanFoundError: the search ended before it found a plan.
        UsageError: none of the `activations` was scored.
    """
    limit = task.constraints.max_loss
    if limit is None:
        return solve_rounded(task, options, activations)
    answer = _within(task, options, activations, limit)
    return answer.task, answer.plan, answer.activations


def _within(
    task: PlanningTask, options: SolverOptions, activations: Sequence[ActivationChoice], limit: float
) -> Answer:
    """Try bounds on the sum of scores, from the limit downwards, and return the answer under the largest that keeps it.

    Nothing says that a larger bound predicts a larger loss, but it does so up to the noise of the scoring text.
    """
    kept: Answer | None = None
    low, bound, above_bound, excess = 0.0, limit, math.inf, math.inf
    for _ in range(ROUNDS):
        try:
            answer = _answer(task.within_sum(bound), options, activations)
        except NoPlanFoundError:
            if kept is None:
                raise
            break
        except InfeasibleError:  # below the least sum of scores, or against another limit, which `_safest` names
            break
        if answer.loss <= limit:
            kept, low = answer, bound
        else:
            above_bound, excess = bound, answer.loss
        if limit <= 0 or low >= min(limit, CLOSE * above_bound):
            break
        bound = math.sqrt(low * above_bound) if kept is not None else bound * (AIM * limit / excess) ** 2
    return kept if kept is not None else _safest(task, options, activations, limit)


def _safest(
    task: PlanningTask, options: SolverOptions, activations: Sequence[ActivationChoice], limit: float
) -> Answer:
    """Return the answer under the least possible bound.

    Raises:
        InfeasibleError: its predicted loss is above the limit, or no plan keeps the other limits.
    """
    free, plan, _ = solve_rounded(task.without_goal(), options, activations)
    least = free.sum_of_scores(plan.storage)
    answer = _answer(task.within_sum(least + WITHIN * abs(least)), options, activations)
    if answer.loss > limit:
        raise InfeasibleError(
            f"`max_loss` = {limit:g}: nearest feasible {above(answer.loss)}. That is the predicted loss of the plan of "
            "the least sum of scores within the other limits."
        )
    return answer


def _answer(task: PlanningTask, options: SolverOptions, activations: Sequence[ActivationChoice]) -> Answer:
    task, plan, planned = solve_rounded(task, options, activations)
    judged = cross_fit(task, judged_program(task, plan))
    loss = task.sum_of_scores(plan.storage) if judged is None else judged.loss
    more = math.fsum(item.predicted_loss for item in planned)
    return Answer(task, replace(plan, judged=judged), planned, loss + more)
