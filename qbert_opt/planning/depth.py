"""Depth as a choice: the scores of a model without some of its layers, and a plan that states what they cost."""

from __future__ import annotations

import math

from ..scoring.layer_drops import Shortened
from ..spec.allocation import Allocation
from ..spec.planned import DroppedLayers
from ..spec.score_parts import ActivationScores, Rows
from ..spec.scores import ScoreTable


def shortened_scores(scores: ScoreTable, shortened: Shortened) -> ScoreTable:
    """Return the scores of the matrices that a shorter model keeps, by the names that they have there.

    The score of a matrix is taken to be the same in both models.

    Args:
        scores: of the whole model.
        shortened: the shorter model.
    """
    layers = set(shortened.dropped.layers)
    matrices = scores.profile.matrices
    kept = [index for index, matrix in enumerate(matrices) if matrix.block not in layers]
    names = {matrices[old].module: new.module for old, new in zip(kept, shortened.profile.matrices, strict=True)}
    blocks = {old: new for new, old in enumerate(n for n in range(scores.profile.num_blocks) if n not in layers)}

    def rows(values: Rows) -> Rows:
        return tuple(values[index] for index in kept)

    return scores.model_copy(
        update={
            "profile": shortened.profile,
            **{name: rows(getattr(scores, name)) for name in ("value", "std_error", "weight_error")},
            "fold_value": tuple(map(rows, scores.fold_value)),
            "masks": {names[module]: why for module, why in scores.masks.items() if module in names},
            "samples": tuple(scores.samples[index] for index in kept) if scores.samples else (),
            "block_sensitivity": tuple(
                item.model_copy(update={"block": blocks[item.block]})
                for item in scores.block_sensitivity
                if item.block in blocks
            ),
            "curvature": tuple(
                item.model_copy(update={"module": names[item.module]})
                for item in scores.curvature
                if item.module in names
            ),
            "activations": None if scores.activations is None else _kept_inputs(scores.activations, names),
        }
    )


def _kept_inputs(scores: ActivationScores, names: dict[str, str]) -> ActivationScores:
    """Keep the inputs that a matrix of the shorter model reads, under its name there."""
    inputs = [tuple(names[module] for module in modules if module in names) for modules in scores.inputs]
    kept = [index for index, modules in enumerate(inputs) if modules]
    return scores.model_copy(
        update={
            "inputs": tuple(inputs[index] for index in kept),
            **{n: tuple(getattr(scores, n)[index] for index in kept) for n in ("value", "std_error", "ranges")},
        }
    )


def with_dropped(plan: Allocation, dropped: DroppedLayers) -> Allocation:
    """Add the loss of the layers that a shorter model lacks to every loss of its plan.

    Args:
        plan: of the shorter model.
        dropped: what it lacks.
    """
    more = dropped.predicted_loss

    def joined(error: float) -> float:
        return math.hypot(error, dropped.std_error)

    uniform = [
        rival.model_copy(
            update={
                "predicted_loss": rival.predicted_loss + more,
                "predicted_std_error": None if rival.predicted_std_error is None else joined(rival.predicted_std_error),
            }
        )
        for rival in plan.uniform
    ]
    return plan.model_copy(
        update={
            "dropped": dropped,
            "predicted_loss": plan.predicted_loss + more,
            "predicted_std_error": joined(plan.predicted_std_error),
            "sum_of_scores": plan.sum_of_scores + more,
            "sum_std_error": joined(plan.sum_std_error),
            "lower_bound": None if plan.lower_bound is None else plan.lower_bound + more,
            "uniform": tuple(uniform),
            "random_loss": None if plan.random_loss is None else plan.random_loss + more,
        }
    )
