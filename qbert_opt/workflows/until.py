"""Score more and more text until the predicted loss of the plan is as precise as requested."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..spec.allocation import Allocation
from ..spec.scores import ScoreTable
from .solve import Solved

LARGEST_STEP = 4  # a standard error from few texts is itself rough, so a step relies on it only so far
SMALLEST_STEP = 1.5  # every step scores all its texts again
MARGIN = 1.1  # more texts than the standard error asks for, so that one step mostly suffices


def relative_error(plan: Allocation) -> float:
    """Return the standard error of a plan's predicted loss relative to that loss; infinite if the loss is not above 0.

    Args:
        plan: the plan.
    """
    return plan.predicted_std_error / plan.predicted_loss if plan.predicted_loss > 0 else math.inf


def texts_needed(plan: Allocation, until: float) -> int | None:
    """Return how many scoring texts give the requested relative error, if it falls with their square root.

    If a few texts carry the loss (a small effective sample size), the error itself is rough, and so is this number.

    Args:
        plan: the plan, with the number of texts that it was scored on.
        until: relative standard error of the predicted loss, above 0.

    Returns:
        The number of texts, at least those scored; None if the predicted loss is not above 0.
    """
    ratio = relative_error(plan) / until
    if not math.isfinite(ratio):
        return None
    return math.ceil(plan.provenance.num_scored * max(1.0, ratio**2))


def solve_until(
    score: Callable[[int], ScoreTable],
    solve: Callable[[ScoreTable], Solved],
    until: float,
    *,
    start: int,
    most: int,
) -> tuple[ScoreTable, Solved]:
    """Score text and solve, with more text each time, until the plan's prediction is as precise as requested.

    Args:
        score: scores that many texts.
        solve: makes the plan of a table.
        until: relative standard error of the predicted loss at which to stop, above 0.
        start: texts of the first attempt.
        most: number of texts available.

    Returns:
        The last table and its plan, precise enough or from all text.
    """
    count = min(start, most)
    while True:
        table = score(count)
        solved = solve(table)
        if count >= most or relative_error(solved.plan) <= until:
            return table, solved
        needed = texts_needed(solved.plan, until)
        asked = math.inf if needed is None else MARGIN * needed
        count = min(most, math.ceil(min(max(asked, SMALLEST_STEP * count), LARGEST_STEP * count)))
