"""Solve for bits and attention heads together: which heads of the model to leave out, and how to store the rest."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..data.texts import LabeledTexts
from ..models.loading import LoadedModel
from ..planning.head_scores import narrowed_scores
from ..runtime.progress import Progress, silent
from ..scoring.head_drops import head_drops
from ..spec.dropped import DroppedHeads
from ..spec.scores import ScoreTable
from .left_out import least_left_out, same_text
from .solve import Solved


def solve_with_fewer_heads(
    scores: ScoreTable,
    loaded: LoadedModel,
    data: LabeledTexts,
    most: int,
    solve: Callable[[ScoreTable], Solved],
    *,
    progress: Progress = silent,
) -> tuple[ScoreTable, Solved, tuple[DroppedHeads, ...]]:
    """Measure the model without nested sets of at most `most` heads, solve for each, and return the best plan.

    The loss of missing heads is measured on the half of the scoring text that did not select them, and added to the
    scores of the smaller matrices, which are assumed to equal those of the whole ones.

    Args:
        scores: of the whole model.
        loaded: the whole model.
        data: the text of the scores.
        most: maximum number of heads to leave out.
        solve: returns the best plan for a score table.
        progress: called with steps done, number of steps, and the current one.

    Returns:
        The scores that the plan was solved from, which are those of the smaller model if heads were dropped; the plan;
        and the sets of heads that were measured, with their losses.

    Raises:
        InfeasibleError: no set of heads has a plan within the limits.
        InputFileError: the model or the text is not that of the scores.
        UsageError: not so many heads of this model can be left out.
    """
    loaded, fit, scored = same_text(scores, loaded, data)
    sets = head_drops(loaded, fit, scored, most, progress=progress)
    smaller = [(item.dropped, partial(narrowed_scores, scores, item.profile)) for item in sets]
    table, solved = least_left_out(scores, smaller, solve)
    return table, solved, tuple(item.dropped for item in sets)
