"""The predicted loss of a plan on text that did not choose it.

The solver prefers choices whose scores are low partly by chance, so the sum of a plan's scores is optimistic. As in
cross-fitting (Chernozhukov et al. 2018, section 3), each part of the scoring text evaluates the plan that all other
parts would have chosen under the same limits. No plan is run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from solvers import ChoiceProblem, solve

from .assembly import Judgement
from .program import LOSS, RESIDENT_GOALS, PlanningTask
from .solving import Plan, SolverOptions
from .stand_ins import Sweep
from .traffic_limit import TRAFFIC, bits_first

RELATIVE_GAP = 1e-3  # of each fold's plan; far below the spread between folds
TIME_LIMIT_S = 5.0  # for each fold's plan
MOST_EXACT_LIMITS = 2  # with more, a proof can take minutes, and what 5 s find depends on how busy the machine is
SEVERAL_LIMITS_GAP = 0.02  # with more limits; on seven score tables it moved losses by at most 0.22 standard errors
JOINT_ROOM = 1e-3  # relative, of a resource that residency lowers: the least use leaves other scores hardly any plan


def chosen_by(
    task: PlanningTask,
    problem: ChoiceProblem,
    values: NDArray[np.float64],
    relative_gap: float,
    solver: Literal["auto", "lagrangian"] = "auto",
) -> NDArray[np.int_] | None:
    """Solve a program with other scores.

    Args:
        task: the task of the program.
        problem: the program.
        values: the other scores, float64 [items, choices].
        relative_gap: proven relative distance from the optimum at which the search may stop.
        solver: `auto` stops after `TIME_LIMIT_S`, `lagrangian` after a fixed effort.

    Returns:
        The choice of each item, int [items]; None if no plan was found.
    """
    columns = values.shape[1]
    tiled = np.tile(np.where(task.legal, values, np.nan), (1, len(problem.options) // columns))
    limit_s = TIME_LIMIT_S if solver == "auto" else None  # other methods have a fixed effort
    solution = solve(replace(problem, value=tiled), solver, relative_gap=relative_gap, time_limit_s=limit_s)
    return None if solution.choice is None else np.array(solution.choice) % columns


def placed_bits(
    task: PlanningTask, problem: ChoiceProblem, values: NDArray[np.float64], relative_gap: float
) -> NDArray[np.int_] | None:
    """Solve a program that limits traffic with other scores, bits first.

    Args:
        task: the task of the program.
        problem: the program, which decides bits and residency together.
        values: the other scores, float64 [items, choices].
        relative_gap: proven relative distance from the optimum at which the search may stop.

    Returns:
        The choice of each item, int [items]; None if the best bits cannot be placed, or the limit is on something else.
    """
    if TRAFFIC not in problem.capacity:
        return None
    columns = values.shape[1]
    tiled = np.tile(np.where(task.legal, values, np.nan), (1, len(problem.options) // columns))
    options = SolverOptions(time_limit_s=TIME_LIMIT_S, relative_gap=relative_gap)
    solution = bits_first(replace(problem, value=tiled), columns, options)
    return None if solution is None else np.array(solution.choice) % columns


def stand_in(task: PlanningTask, problem: ChoiceProblem, values: NDArray[np.float64]) -> NDArray[np.int_] | None:
    """Return a nearly optimal plan under other scores, for programs that decide bits and residency together.

    Eight exact solves of such a program would take minutes or hit their time limit.

    Args:
        task: the task of the program.
        problem: the program.
        values: the other scores, float64 [items, choices].

    Returns:
        The choice of each item, int [items]; None if no plan of the sweep meets every limit.
    """
    columns = values.shape[1]
    tiled = np.tile(np.where(task.legal, values, np.inf), (1, len(problem.options) // columns))
    limited = {name: limit for name, limit in problem.capacity.items() if limit < math.inf}
    chosen = Sweep(problem, tiled, tuple(limited)).choose(limited)
    return None if chosen is None else chosen % columns


def loss_of(values: NDArray[np.float64], chosen: NDArray[np.int_]) -> float:
    """Return the sum of the scores of one choice per item.

    Args:
        values: scores, float64 [items, choices].
        chosen: choice of each item, int [items].
    """
    return float(values[np.arange(len(chosen)), chosen].sum())


def judged_program(task: PlanningTask, plan: Plan) -> ChoiceProblem:
    """Return the program that is solved again on other text.

    This is the plan's own program; if a resource was minimized, it is least loss at the same use of that resource.

    Args:
        task: the task of the plan.
        plan: its solution.
    """
    if task.goal is None:
        return plan.problem
    capacity = {name: limit for name, limit in plan.problem.capacity.items() if name != LOSS}
    room = JOINT_ROOM if task.goal in RESIDENT_GOALS else 1e-9
    capacity[task.goal] = plan.solution.usage[task.goal] * (1 + room)
    return replace(plan.problem, capacity=capacity, tie_break=task.goal)


def cross_fit(task: PlanningTask, problem: ChoiceProblem) -> Judgement | None:
    """Predict the loss of a program's best plan on text that did not choose it.

    Args:
        task: the task of the program, with the scores on each fold.
        problem: the program.

    Returns:
        Mean loss over the folds with its standard error; None if the scores have no folds, or if no plan was found in
        time for one of them.
    """
    folds = task.folds
    if not len(folds):
        return None
    held_out = []
    joint = len(problem.options) > folds.shape[2] and problem.max_families is None
    several = sum(limit < math.inf for limit in problem.capacity.values()) > MOST_EXACT_LIMITS
    for index, fold in enumerate(folds):
        values = others_mean(folds, index)
        chosen = placed_bits(task, problem, values, RELATIVE_GAP) if joint else None
        if chosen is None and joint:
            chosen = stand_in(task, problem, values)
        if chosen is None and several and problem.max_families is None:
            chosen = chosen_by(task, problem, values, SEVERAL_LIMITS_GAP, "lagrangian")
        elif chosen is None:
            chosen = chosen_by(task, problem, values, RELATIVE_GAP)
        if chosen is None:
            return None
        held_out.append(loss_of(fold, chosen))
    return judged(task, held_out)


def others_mean(folds: NDArray[np.float64], index: int) -> NDArray[np.float64]:
    """Return the mean score over all folds but one, float64 [items, choices].

    Args:
        folds: scores on each fold, float64 [folds, items, choices].
        index: the fold to leave out.
    """
    mean: NDArray[np.float64] = np.delete(folds, index, axis=0).mean(axis=0)
    return mean


def judged(task: PlanningTask, held_out: Sequence[float]) -> Judgement:
    """Combine the held-out losses of all folds.

    The standard error is corrected for the overlap between the texts that chose the folds' plans (Nadeau and Bengio
    2003, section 4), and includes that of the scores' common scale.

    Args:
        task: the task, for the common scale of its scores.
        held_out: loss on each fold of the plan that the other folds chose.
    """
    count, loss = len(held_out), float(np.mean(held_out))
    variance = float(np.var(held_out, ddof=1)) * (1 / count + 1 / (count - 1))
    return Judgement(loss, math.sqrt(variance + _scale_variance(task, loss)), count)


def fixed_std_error(task: PlanningTask, loss: float, chosen: NDArray[np.int_]) -> float | None:
    """Return the standard error of the sum of scores of a plan that was not chosen by text, such as a uniform one.

    All folds evaluate the same plan, so they are independent, and their mean is the plain sum.

    Args:
        task: the task, with the scores on each fold.
        loss: the plan's sum of scores.
        chosen: choice of each item, int [items].

    Returns:
        The standard error; None if the scores have fewer than two folds.
    """
    losses = [loss_of(fold, chosen) for fold in task.folds]
    if len(losses) < 2:
        return None
    return math.sqrt(float(np.var(losses, ddof=1)) / len(losses) + _scale_variance(task, loss))


def fixed_judgement(task: PlanningTask, choice: Sequence[int]) -> Judgement | None:
    """Predict the loss of a plan that was not chosen by text, such as the fastest one: every fold evaluates it.

    Args:
        task: the task, with the scores on each fold.
        choice: option of each item, streamed or resident.

    Returns:
        Its mean loss over the folds with its standard error; None if the scores have fewer than two folds.
    """
    if len(task.folds) < 2:
        return None
    chosen = np.array(choice) % task.folds.shape[2]
    loss = float(np.mean([loss_of(fold, chosen) for fold in task.folds]))
    error = fixed_std_error(task, loss, chosen)
    return None if error is None else Judgement(loss, error, len(task.folds))


def _scale_variance(task: PlanningTask, loss: float) -> float:
    scale = task.scores.scale
    return 0.0 if scale is None else (loss * scale.std_error / scale.value) ** 2
