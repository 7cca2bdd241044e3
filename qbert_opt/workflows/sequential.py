"""A plan quantized block by block: later matrices are fitted to inputs that already carry the earlier errors.

The rounding errors then differ from those that the plan was scored with, so they are scored again.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby

from ..curvature.columns import carrying_samples, softened
from ..curvature.factors import factor_pass
from ..data.texts import LabeledTexts
from ..errors import UsageError
from ..models.batches import apart, tokenize
from ..models.loading import LoadedModel
from ..models.outputs import collect
from ..quantization.calibration import BATCH_SIZE, MatrixQuantizer, fit_batches, fit_grams, weight_of
from ..quantization.methods import QuantizedMatrix
from ..runtime import plugins
from ..scoring.metrics import directional
from ..spec.allocation import Allocation, PlannedActivation, PlannedMatrix, PlannedTable
from ..spec.choices import Choice
from ..spec.profiles import MatrixSpec

CONTAINS = "quantized in sequence and scored again"


class SequentialQuantizer(MatrixQuantizer):
    """The matrices of one plan, quantized in order of execution when it is made; `quantize` then looks them up."""

    def __init__(
        self,
        loaded: LoadedModel,
        allocation: Allocation,
        fit: LabeledTexts | None,
        progress: Callable[[int, int, str], None] = lambda done, total, what: None,
    ) -> None:
        """Quantize block after block of a copy of the model.

        Raises:
            UsageError: the plan's method looks at no inputs, so the order is all the same to it.
        """
        self._model, self._profile = loaded.model, allocation.profile  # for weights and errors, as the other's
        self._found: dict[tuple[str, Choice], QuantizedMatrix] = {}
        plugin = plugins.load("quantizers", allocation.method)
        if not plugin.NEEDS_GRAM:
            raise UsageError(f"--sequential: method {allocation.method} looks at no inputs; quantize without it.")
        batches = fit_batches(loaded, allocation.method, fit)
        choices = {m.module: m.choice for m in allocation.matrices}
        working = copy.deepcopy(loaded.model)
        for block in sorted({m.block for m in allocation.profile.matrices}):
            inside = [m for m in allocation.profile.matrices if m.block == block]
            progress(len(self._found), len(choices), inside[0].module)
            grams = fit_grams(working, allocation.method, batches, [m.module for m in inside])
            for matrix in inside:
                asked = choices[matrix.module]
                layout = asked.layout(matrix.rows, matrix.columns, heads=allocation.profile.heads)
                [found] = plugin.quantize(self.weight(matrix), [layout], grams[matrix.module])
                self._found[matrix.module, asked] = found
                weight_of(working, matrix.module).copy_(found.dequantize())

    def quantize(self, matrix: MatrixSpec, choices: Sequence[Choice]) -> list[QuantizedMatrix]:
        """Return a matrix of the plan as it was quantized.

        Raises:
            ValueError: the plan gives the matrix another choice.
        """
        if any((matrix.module, asked) not in self._found for asked in choices):
            raise ValueError(f"{matrix.module}: was quantized by the plan's choice only")
        return [self._found[matrix.module, asked] for asked in choices]


def rescored(
    loaded: LoadedModel,
    allocation: Allocation,
    quantizer: MatrixQuantizer,
    scored: LabeledTexts,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> Allocation:
    """Return the plan with the losses predicted from the rounding errors that a quantizer really makes.

    Args:
        loaded: the reference model.
        allocation: a plan from `directional` scores.
        quantizer: what will write it.
        scored: the text that the plan's scores were made on.
        progress: called with matrices done, matrices in all, and what goes on.

    Raises:
        UsageError: the plan is from another metric, whose unit this is not.
    """
    if allocation.metric != "directional":
        raise UsageError(f"--sequential: scores of metric {allocation.metric} cannot be made again; use directional.")
    batches = tokenize(loaded.tokenizer, scored.texts, batch_size=BATCH_SIZE, kind=loaded.head.kind)
    specs = {m.module: m for m in allocation.profile.matrices}
    carrying = carrying_samples(loaded.head, collect(loaded.head, loaded.model, batches))
    if carrying is not None:
        batches = apart(batches, carrying)
    plan = replace(softened(loaded.head, carrying), seed=allocation.provenance.seed)
    matrices: list[PlannedMatrix] = []
    for block, inside in groupby(allocation.matrices, key=lambda planned: planned.block):
        planned_here = list(inside)
        names = [planned.module for planned in planned_here]
        progress(len(matrices), len(specs), f"scores of layer {block + 1} again")
        factors = factor_pass(loaded.model, batches, names, plan, loaded.head)
        for planned in planned_here:
            error = quantizer.errors(specs[planned.module], [planned.choice])
            estimate = directional.quadratic_forms(factors.pop(planned.module), error)
            update = {
                "predicted_loss": allocation.loss_scale * float(estimate.value[0]),
                "std_error": allocation.loss_scale * float(estimate.std_error[0]),
            }
            matrices.append(planned.model_copy(update=update))
    parts: list[PlannedMatrix | PlannedTable | PlannedActivation] = [*matrices, *allocation.tables]
    parts += allocation.activations
    losses = [part.predicted_loss or 0.0 for part in parts]  # a table that was not scored has none
    std_errors = [part.std_error or 0.0 for part in parts]
    total, total_error = math.fsum(losses), math.sqrt(math.fsum(error**2 for error in std_errors))
    # The cross-fitted loss moves as the sum of scores does: the plan, and what was chosen by chance, stay the same.
    moved = total / allocation.sum_of_scores if allocation.sum_of_scores > 0 else 1.0
    return allocation.model_copy(
        update={
            "matrices": tuple(matrices),
            "predicted_loss": moved * allocation.predicted_loss if allocation.folds else total,
            "predicted_std_error": moved * allocation.predicted_std_error if allocation.folds else total_error,
            "sum_of_scores": total,
            "sum_std_error": total_error,
            "contains": f"{allocation.contains}; {CONTAINS}",
        }
    )
