"""Solve for bits and depth together: which layers of the model to leave out, and how to store the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from solvers import relative_gap

from ..data.texts import LabeledTexts
from ..errors import InfeasibleError, InputFileError
from ..models.loading import LoadedModel
from ..planning.depth import shortened_scores, with_dropped
from ..quantization.calibration import CalibrationPlan, calibration_texts
from ..runtime.progress import Progress, silent
from ..scoring.layer_drops import Shortened, layer_drops
from ..spec.allocation import Allocation
from ..spec.plan_checks import PROVEN_GAP
from ..spec.scores import ScoreTable
from .solve import Solved


def solve_with_drops(
    scores: ScoreTable,
    loaded: LoadedModel,
    data: LabeledTexts,
    most: int,
    solve: Callable[[ScoreTable], Solved],
    *,
    progress: Progress = silent,
) -> tuple[ScoreTable, Solved]:
    """Measure the model without each set of at most `most` layers, solve for each, and return the best plan.

    The loss of dropped layers is measured on the scoring text and added to the scores of the matrices that are left,
    which are taken to be the same as in the whole model.

    Args:
        scores: of the whole model.
        loaded: the whole model.
        data: the text of the scores.
        most: the most layers to leave out.
        solve: returns the best plan of a table.
        progress: called with sets of layers measured, number of sets, and the current set.

    Returns:
        The scores that the plan was solved from, which are those of the shorter model if layers were dropped, and the
        plan.

    Raises:
        InfeasibleError: no depth has a plan within the limits.
        InputFileError: the model or the text is not that of the scores.
        UsageError: the model cannot do without layers.
    """
    origin = scores.provenance
    if scores.profile.sha256 != loaded.sha256:
        raise InputFileError(f"{loaded.name}: is not the model of the scores, {scores.profile.name}. Score it first.")
    if data.sha256 != origin.data_sha256:
        raise InputFileError(f"{data.name}: is not the data the scores were made with ({origin.data}). Give that data.")
    _, texts = calibration_texts(data, CalibrationPlan.of(origin))
    loaded = replace(loaded, max_tokens=origin.max_tokens or loaded.max_tokens)
    shortened = layer_drops(loaded, texts, most, progress=progress)
    return best_depth(scores, shortened, solve)


def best_depth(
    scores: ScoreTable, shortened: Sequence[Shortened], solve: Callable[[ScoreTable], Solved]
) -> tuple[ScoreTable, Solved]:
    """Solve for the whole model and for each shorter one, and return the plan with the least sum of scores.

    A shorter model is not solved for if its dropped layers and the least score of each remaining item already add up to
    as much as the best plan so far.

    Args:
        scores: of the whole model.
        shortened: the shorter models.
        solve: returns the best plan of a table.

    Returns:
        The scores that the plan was solved from, and the plan; its bound and gap are over all depths.

    Raises:
        InfeasibleError: no depth has a plan within the limits; the message is that of the last one tried.
    """
    best: tuple[ScoreTable, Solved] | None = None
    bounds: list[float] = []
    refusal = InfeasibleError("no depth was tried")
    for item in (None, *sorted(shortened, key=lambda one: one.dropped.predicted_loss)):
        table = scores if item is None else shortened_scores(scores, item)
        if best is not None and item is not None:
            least = float(np.nanmin(table.item_values(), axis=1).sum()) + item.dropped.predicted_loss
            if least >= best[1].plan.sum_of_scores:
                continue
        try:
            solved = solve(table)
        except InfeasibleError as error:
            refusal = error
            continue
        if item is not None:
            solved = replace(solved, plan=with_dropped(solved.plan, item.dropped))
        bounds += [] if solved.plan.lower_bound is None else [solved.plan.lower_bound]
        if best is None or solved.plan.sum_of_scores < best[1].plan.sum_of_scores:
            best = table, solved
    if best is None:
        raise refusal
    table, solved = best
    return table, replace(solved, plan=_proven(solved.plan, bounds))


def _proven(plan: Allocation, bounds: Sequence[float]) -> Allocation:
    """State the bound over all depths, which is lower where the solver stopped early on another depth."""
    floor = min(bounds, default=None)
    if floor is None or plan.lower_bound is None or floor >= plan.lower_bound:
        return plan
    gap = relative_gap(plan.sum_of_scores, floor)
    return plan.model_copy(
        update={"lower_bound": floor, "gap": gap, "status": plan.status if gap <= PROVEN_GAP else "feasible"}
    )
