"""What a plan is predicted to lose on text that did not choose it.

The plan of least score is the one whose scores came out low, partly by chance of the scoring text, so the sum of its
scores is optimistic. As in cross-fitting (Chernozhukov et al. 2018, section 3) each part of the scoring text judges the
plan that all other parts would have chosen under the same limits. No forward pass of any plan is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from solvers import ChoiceProblem, solve

from .assembly import Judgement
from .program import PlanningTask

RELATIVE_GAP = 1e-3  # of the stand-in plans; far below the spread between folds
TIME_LIMIT_S = 5.0  # for one of them


def chosen_by(
    task: PlanningTask, problem: ChoiceProblem, values: NDArray[np.float64], relative_gap: float
) -> NDArray[np.int_] | None:
    """Return the choice of each item that other scores make under the limits of a program; None where time is short.

    Args:
        task: whose program it is.
        problem: the program.
        values: the other scores [items, choices].
        relative_gap: where the search may stop.
    """
    columns = values.shape[1]
    tiled = np.tile(np.where(task.legal, values, np.nan), (1, len(problem.options) // columns))
    found = solve(replace(problem, value=tiled), "auto", relative_gap=relative_gap, time_limit_s=TIME_LIMIT_S)
    return None if found.choice is None else np.array(found.choice) % columns


def loss_of(values: NDArray[np.float64], chosen: NDArray[np.int_]) -> float:
    """Sum of the scores [items, choices] of one choice per item."""
    return float(values[np.arange(len(chosen)), chosen].sum())


def cross_fit(task: PlanningTask, problem: ChoiceProblem) -> Judgement | None:
    """Judge the plan of `problem`, a program of `task`, on text that did not choose it.

    Returns:
        Mean loss over the folds with its standard error; None where the scores hold no folds, or where a fold's program
        found no plan in its time.
    """
    folds = task.scores.item_folds()
    if not len(folds):
        return None
    held_out = []
    for index, fold in enumerate(folds):
        chosen = chosen_by(task, problem, others_mean(folds, index), RELATIVE_GAP)
        if chosen is None:
            return None
        held_out.append(loss_of(fold, chosen))
    return judged(task, held_out)


def others_mean(folds: NDArray[np.float64], index: int) -> NDArray[np.float64]:
    """Scores by all folds but one, float64 [items, choices]."""
    mean: NDArray[np.float64] = np.delete(folds, index, axis=0).mean(axis=0)
    return mean


def judged(task: PlanningTask, held_out: Sequence[float]) -> Judgement:
    """Join what each fold said of the plan that the others chose.

    The standard error is corrected for what the folds' plans have in common (Nadeau and Bengio 2003, section 4), and
    holds that of the scores' common scale.

    Args:
        task: whose scores they are.
        held_out: loss on each fold.
    """
    count, loss = len(held_out), float(np.mean(held_out))
    variance = float(np.var(held_out, ddof=1)) * (1 / count + 1 / (count - 1))
    return Judgement(loss, math.sqrt(variance + _scale_variance(task, loss)), count)


def fixed_std_error(task: PlanningTask, loss: float, chosen: NDArray[np.int_]) -> float | None:
    """Standard error of the sum of scores of a plan that no text chose, such as a uniform one; None without folds.

    The folds judge one and the same plan, so they are independent and the mean over them is the plain sum.

    Args:
        task: whose scores they are.
        loss: the sum of scores.
        chosen: one choice per item.
    """
    losses = [loss_of(fold, chosen) for fold in task.scores.item_folds()]
    if len(losses) < 2:
        return None
    return math.sqrt(float(np.var(losses, ddof=1)) / len(losses) + _scale_variance(task, loss))


def _scale_variance(task: PlanningTask, loss: float) -> float:
    scale = task.scores.scale
    return 0.0 if scale is None else (loss * scale.std_error / scale.value) ** 2
