"""The scores of a model without some of its attention heads."""

from __future__ import annotations

from ..spec.legal import masked_choices
from ..spec.profiles import ModelProfile
from ..spec.score_arrays import Rows
from ..spec.scores import ScoreTable


def narrowed_scores(scores: ScoreTable, profile: ModelProfile) -> ScoreTable:
    """Return the scores for the matrices of a model with fewer heads; choices that no longer divide them are masked.

    A matrix is assumed to have the score of the whole one. That is slightly too high, since the missing heads no longer
    contribute rounding errors.

    Args:
        scores: of the whole model.
        profile: of the smaller model, with the same matrices by name.
    """
    choices = scores.grid()
    masks = {m.module: masked_choices(m, choices, heads=profile.heads_of(m)) for m in profile.matrices}
    masked = [[name in masks[m.module] for name in scores.choices] for m in profile.matrices]

    def rows(values: Rows) -> Rows:
        return tuple(
            tuple(None if hidden else value for value, hidden in zip(row, hides, strict=True))
            for row, hides in zip(values, masked, strict=True)
        )

    merged = {module: scores.masks.get(module, {}) | reasons for module, reasons in masks.items()}
    return scores.model_copy(
        update={
            "profile": profile,
            **{name: rows(getattr(scores, name)) for name in ("value", "std_error", "weight_error")},
            "fold_value": tuple(map(rows, scores.fold_value)),
            "masks": {module: reasons for module, reasons in merged.items() if reasons},
        }
    )
