"""Solve for bits and depth together: which layers of the model to leave out, and how to store the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from ..data.texts import LabeledTexts
from ..models.loading import LoadedModel
from ..planning.depth import shortened_scores
from ..runtime.progress import Progress, silent
from ..scoring.layer_drops import Shortened, layer_drops
from ..spec.scores import ScoreTable
from .left_out import least_left_out, same_text
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

    The loss of dropped layers is measured on the scoring text and added to the scores of the remaining matrices, which
    are assumed to be the same as in the whole model.

    Args:
        scores: of the whole model.
        loaded: the whole model.
        data: the text of the scores.
        most: maximum number of layers to leave out.
        solve: returns the best plan for a score table.
        progress: called with sets of layers measured, number of sets, and the current set.

    Returns:
        The scores that the plan was solved from, which are those of the shorter model if layers were dropped, and the
        plan.

    Raises:
        InfeasibleError: no depth has a plan within the limits.
        InputFileError: the model or the text is not that of the scores.
        UsageError: layers of this model cannot be left out.
    """
    loaded, _, texts = same_text(scores, loaded, data)
    shortened = layer_drops(loaded, texts, most, progress=progress)
    return best_depth(scores, shortened, solve)


def best_depth(
    scores: ScoreTable, shortened: Sequence[Shortened], solve: Callable[[ScoreTable], Solved]
) -> tuple[ScoreTable, Solved]:
    """Solve for the whole model and for each shorter one, and return the plan with the least sum of scores.

    Args:
        scores: of the whole model.
        shortened: the shorter models.
        solve: returns the best plan of a table.

    Returns:
        The scores that the plan was solved from, and the plan; its bound and gap are over all depths.

    Raises:
        InfeasibleError: no depth has a plan within the limits; the message is that of the last one tried.
    """
    smaller = [(item.dropped, partial(shortened_scores, scores, item)) for item in shortened]
    return least_left_out(scores, smaller, solve)
