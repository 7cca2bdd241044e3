"""Depth as a choice: the scores of a model without some of its layers."""

from __future__ import annotations

from ..scoring.layer_drops import Shortened
from ..spec.score_arrays import Rows
from ..spec.score_parts import ActivationScores
from ..spec.scores import ScoreTable


def shortened_scores(scores: ScoreTable, shortened: Shortened) -> ScoreTable:
    """Return the scores of the matrices that a shorter model keeps, under their names in that model.

    A matrix is assumed to have the same score in both models.

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
