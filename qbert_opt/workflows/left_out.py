"""Solve for a model and for smaller ones without some of its parts, and take the plan with the least loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from solvers import relative_gap

from ..data.texts import LabeledTexts
from ..errors import InfeasibleError, InputFileError
from ..models.loading import LoadedModel
from ..planning.left_out import with_dropped
from ..quantization.calibration import CalibrationPlan, calibration_texts
from ..spec.allocation import Allocation
from ..spec.dropped import DroppedHeads
from ..spec.plan_checks import PROVEN_GAP
from ..spec.planned import DroppedLayers
from ..spec.scores import ScoreTable
from .solve import Solved

Smaller = tuple[DroppedLayers | DroppedHeads, Callable[[], ScoreTable]]
"""What a smaller model lacks, with its loss, and the scores of the remaining matrices."""


def same_text(
    scores: ScoreTable, loaded: LoadedModel, data: LabeledTexts
) -> tuple[LoadedModel, LabeledTexts, LabeledTexts]:
    """Return the model as it was scored, the calibration texts and the scoring texts.

    Args:
        scores: of the model.
        loaded: the model.
        data: the text of the scores.

    Raises:
        InputFileError: the model or the text is not that of the scores.
    """
    origin = scores.provenance
    if scores.profile.sha256 != loaded.sha256:
        raise InputFileError(f"{loaded.name}: is not the model of the scores, {scores.profile.name}. Score it first.")
    if data.sha256 != origin.data_sha256:
        raise InputFileError(f"{data.name}: is not the data the scores were made with ({origin.data}). Give that data.")
    fit, scored = calibration_texts(data, CalibrationPlan.of(origin))
    return replace(loaded, max_tokens=origin.max_tokens or loaded.max_tokens), fit, scored


def least_left_out(
    scores: ScoreTable, smaller: Sequence[Smaller], solve: Callable[[ScoreTable], Solved]
) -> tuple[ScoreTable, Solved]:
    """Solve for the whole model and for each smaller one, and return the plan with the least sum of scores.

    A smaller model is skipped if the loss of the missing parts and the least score of each remaining item already add
    up to the loss of the best plan so far.

    Args:
        scores: of the whole model.
        smaller: the smaller models.
        solve: returns the best plan of a table.

    Returns:
        The scores that the plan was solved from, and the plan; its bound and gap are over all models.

    Raises:
        InfeasibleError: no model has a plan within the limits; the message is that of the last one tried.
    """
    best: tuple[ScoreTable, Solved] | None = None
    bounds: list[float] = []
    refusal = InfeasibleError("no model was tried")
    whole: Smaller | None = None
    for item in (whole, *sorted(smaller, key=lambda one: one[0].predicted_loss)):
        table = scores if item is None else item[1]()
        if best is not None and item is not None:
            least = float(np.nanmin(table.item_values(), axis=1).sum()) + item[0].predicted_loss
            if least >= best[1].plan.sum_of_scores:
                continue
        try:
            solved = solve(table)
        except InfeasibleError as error:
            refusal = error
            continue
        if item is not None:
            solved = replace(solved, plan=with_dropped(solved.plan, item[0]))
        bounds += [] if solved.plan.lower_bound is None else [solved.plan.lower_bound]
        if best is None or solved.plan.sum_of_scores < best[1].plan.sum_of_scores:
            best = table, solved
    if best is None:
        raise refusal
    table, solved = best
    return table, replace(solved, plan=_proven(solved.plan, bounds))


def _proven(plan: Allocation, bounds: Sequence[float]) -> Allocation:
    """Set the bound over all models, which is lower if the solver stopped early on another one."""
    floor = min(bounds, default=None)
    if floor is None or plan.lower_bound is None or floor >= plan.lower_bound:
        return plan
    gap = relative_gap(plan.sum_of_scores, floor)
    return plan.model_copy(
        update={"lower_bound": floor, "gap": gap, "status": plan.status if gap <= PROVEN_GAP else "feasible"}
    )
