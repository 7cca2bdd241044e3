"""Minimize a resource under a limit on the predicted loss.

The program can bound only the sum of scores, but the predicted loss of its solution is cross-fitted, and larger. So the
bound on the sum is lowered until the predicted loss meets the limit. The proof is of the least use of the resource
among plans whose sum of scores is within that bound; the plan reports both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import InfeasibleError
from ..spec.activations import ActivationChoice
from ..spec.planned import PlannedActivation
from ..spec.quantities import above
from .cache_widths import allowed_widths, cache_loss
from .cross_fit import cross_fit, judged_program
from .input_widths import solve_rounded
from .program import PlanningTask
from .solving import Plan, SolverOptions, proven_against

ROUNDS = 5  # bounds to try between one that meets the limit and one that does not, or above the least sum
JOINT_ROUNDS = 1  # between the two, for programs that decide bits and residency together: up to a minute each
AIM = 0.97  # share of the limit that the second bound aims at
CLOSE = 0.98  # ratio of two bounds that are close: one that meets the limit, and one that does not
WITHIN = 1e-9  # relative rounding, where a bound is a plan's own sum


@dataclass(frozen=True, slots=True)
class Answer:
    """The plan of least use of a resource under one bound on the sum of scores.

    Attributes:
        task: with its final costs and the bound.
        plan: with its cross-fitted loss.
        activations: how each input is quantized.
        loss: predicted loss of the whole plan, inputs and cache included; 0 without a limit on it.
    """

    task: PlanningTask
    plan: Plan
    activations: tuple[PlannedActivation, ...]
    loss: float


def solve_asked(
    task: PlanningTask, options: SolverOptions, activations: Sequence[ActivationChoice]
) -> tuple[PlanningTask, Plan, tuple[PlannedActivation, ...]]:
    """Solve a task; under a limit on the predicted loss, find the bound on the sum of scores that meets the limit.

    Args:
        task: scores, limits and hardware.
        options: solver, time limit, gap of each solve.
        activations: choices for the inputs; empty leaves the inputs in floating point.

    Returns:
        As `solve_rounded`.

    Raises:
        InfeasibleError: no plan meets every limit, or none with nearly the least sum of scores is predicted to.
        NoPlanFoundError: the search ended before it found a plan.
        UsageError: none of the `activations` was scored.
    """
    answers: list[Answer] = []
    refused: InfeasibleError | None = None
    for bits in allowed_widths(task):
        try:
            answers.append(_asked(task.caching(bits), options, activations))
        except InfeasibleError as error:  # that of the narrowest width, which leaves the most room, comes last
            refused = error
    if not answers:
        raise refused or InfeasibleError("no width of the cache is allowed.")
    best = min(answers, key=_objective)
    plan, own = best.plan, _objective(best) - best.plan.solution.value
    if len(answers) > 1:
        bounds = (_objective(one) - one.plan.solution.value + one.plan.solution.lower_bound for one in answers)
        plan = replace(plan, solution=proven_against(plan.solution, min(bounds) - own))
    return best.task, plan, best.activations


def _objective(answer: Answer) -> float:
    """Return the objective, including the contribution of the cache's width."""
    goal, task = answer.task.goal, answer.task
    more = cache_loss(task) if goal is None else task.tables.fixed[goal]
    return answer.plan.solution.value + more + math.fsum(i.predicted_loss for i in answer.activations if goal is None)


def _asked(task: PlanningTask, options: SolverOptions, activations: Sequence[ActivationChoice]) -> Answer:
    limit = task.constraints.max_loss
    if limit is None:
        return Answer(*solve_rounded(task, options, activations), 0.0)
    return _within(task, options, activations, limit)


def _within(
    task: PlanningTask, options: SolverOptions, activations: Sequence[ActivationChoice], limit: float
) -> Answer:
    """Try bounds on the sum of scores, and return the answer under the largest that meets the limit.

    The limit itself comes first, then the bound that keeps it if prediction and sum stay in proportion, then the least
    sum and a few bounds above it, then bounds between one that meets the limit and one that does not. A larger bound
    need not give a larger predicted loss, but it does up to the noise of the scoring text.
    """
    first = _tried(task, options, activations, limit)
    if first is None:
        return _safest(task, options, activations, limit)
    if first.loss <= limit:
        return first
    failed = first
    kept = None if limit <= 0 else _tried(task, options, activations, _sum_of(first) * AIM * limit / first.loss)
    if kept is not None and kept.loss > limit:
        failed, kept = kept, None
    if kept is None:
        kept = _safest(task, options, activations, limit)
    for _ in range(JOINT_ROUNDS if task.joint else ROUNDS):
        low, high = _bound_of(kept), _sum_of(failed)  # a bound above the plan's own sum allows the same plan
        if not 0 < low < CLOSE * high:
            break
        between = _tried(task, options, activations, math.sqrt(low * high))
        if between is None:
            break
        kept, failed = (between, failed) if between.loss <= limit else (kept, between)
    return kept


def _tried(
    task: PlanningTask, options: SolverOptions, activations: Sequence[ActivationChoice], bound: float
) -> Answer | None:
    """Return the answer under a bound on the sum of scores; None if no plan keeps it and the other limits."""
    try:
        return _answer(task.within_sum(bound), options, activations)
    except InfeasibleError:  # `_safest` names the limit
        return None


def _bound_of(answer: Answer) -> float:
    return answer.task.largest_sum or 0.0


def _sum_of(answer: Answer) -> float:
    return answer.task.sum_of_scores(answer.plan.storage)


def _safest(
    task: PlanningTask, options: SolverOptions, activations: Sequence[ActivationChoice], limit: float
) -> Answer:
    """Return the answer under the least possible bound, or under the first slightly larger one that meets the limit.

    Because of noise in the scoring text, the plan with the least sum need not have the least predicted loss. The bounds
    do not depend on the limit, so a limit set to the value in the message is met by the plan that the message refers
    to. Programs that also decide residency are slow, so for them only the least bound is tried.

    Raises:
        InfeasibleError: none meets the limit, or no plan meets the other limits.
    """
    free, plan, _ = solve_rounded(task.without_goal(), options, activations)
    least = free.sum_of_scores(plan.storage)
    sums_are_losses = not activations and not len(task.scores.item_folds())
    rounds = 0 if sums_are_losses or task.joint or least <= 0 else ROUNDS
    smallest = math.inf
    for step in range(rounds + 1):
        bound = least / CLOSE**step
        answer = _answer(task.within_sum(bound + WITHIN * abs(bound)), options, activations)
        if answer.loss <= limit:
            return answer
        smallest = min(smallest, answer.loss)
    asked = f"`max_loss` = {limit:g}:"
    if sums_are_losses:
        raise InfeasibleError(
            f"{asked} nearest feasible {above(smallest)}. No plan within the other limits loses less."
        )
    more = f", or up to {CLOSE**-rounds - 1:.0%} more" if rounds else ""
    raise InfeasibleError(
        f"{asked} smallest predicted loss found: {above(smallest)}. That is of the plans within the other limits whose "
        f"sum of scores is the least possible{more}."
    )


def _answer(task: PlanningTask, options: SolverOptions, activations: Sequence[ActivationChoice]) -> Answer:
    task, plan, planned = solve_rounded(task, options, activations)
    judged = plan.judged or cross_fit(task, judged_program(task, plan))
    loss = task.sum_of_scores(plan.storage) if judged is None else judged.loss
    more = math.fsum(item.predicted_loss for item in planned)
    return Answer(task, replace(plan, judged=judged), planned, loss + more + cache_loss(task))
