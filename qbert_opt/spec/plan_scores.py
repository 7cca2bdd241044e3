"""Compare a plan with the scores it is supposed to come from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..errors import InputFileError
from .plan_checks import RESCORED

if TYPE_CHECKING:
    from .allocation import Allocation
    from .planned import PlannedMatrix, PlannedTable
    from .scores import ScoreTable

SAME_SCORE = 1e-3  # relative: two runs of the same scoring on different machines differ by less


def check_scores(plan: Allocation, scores: ScoreTable) -> None:
    """Check that scores are for a plan's model, and compare its losses with them if they are of the same run.

    A plan whose losses were scored again is not compared: the scores are for other codes.

    Args:
        plan: the plan.
        scores: given as its scores.

    Raises:
        InputFileError: they are for different models, the plan leaves out layers or heads, or a loss of the plan is not
            the score of its choice.
    """
    if plan.dropped is not None:
        raise InputFileError(
            f"the plan leaves out {len(plan.dropped.layers)} layers of {plan.profile.name}, so its matrices are not "
            "those of the scores. Leave the scores out."
        )
    if plan.dropped_heads is not None:
        raise InputFileError(
            f"the plan leaves out {plan.dropped_heads.count} attention heads of {plan.profile.name}, so its matrices "
            "are smaller than those of the scores. Leave the scores out."
        )
    if plan.profile.sha256 != scores.profile.sha256:
        raise InputFileError(
            f"the plan is for {plan.profile.name} (sha256 {plan.profile.sha256[:12]}…), the scores are for "
            f"{scores.profile.name} ({scores.profile.sha256[:12]}…). Give the scores that the plan was solved from."
        )
    same_run = (plan.provenance, plan.metric, plan.method) == (scores.provenance, scores.metric, scores.method)
    if not same_run or plan.contains.endswith(RESCORED):
        return
    values = scores.item_values().tolist()
    columns = {c.name: column for column, c in enumerate(scores.item_choices())}
    rows = {item.module: row for row, item in enumerate(scores.items)}
    parts: list[PlannedMatrix | PlannedTable] = [*plan.matrices, *plan.tables]
    for part in parts:
        if part.predicted_loss is None or part.module not in rows or part.choice.name not in columns:
            continue
        score = values[rows[part.module]][columns[part.choice.name]]
        if math.isfinite(score) and not math.isclose(part.predicted_loss, score, rel_tol=SAME_SCORE):
            raise InputFileError(
                f"the plan is not from these scores: {part.module}: predicted_loss is {part.predicted_loss:g}; "
                f"{part.choice.name} has {score:g} in the scores. Make the plan again with 'solve'."
            )
