"""Score a plan again from the actual quantization errors of its matrices.

Matrices quantized sequentially have other errors than those that were scored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby

from ..curvature.factors import factor_pass
from ..curvature.sharing import softened
from ..data.texts import LabeledTexts
from ..errors import UsageError
from ..models.loading import LoadedModel, tokenized
from ..models.outputs import collect
from ..quantization.calibration import BATCH_SIZE, weight_of
from ..quantization.quantized_matrix import QuantizedMatrix
from ..runtime.progress import Progress, silent
from ..scoring.metrics import directional
from ..spec.allocation import Allocation
from ..spec.dropped import DroppedHeads
from ..spec.plan_checks import RESCORED
from ..spec.planned import DroppedLayers, PlannedActivation, PlannedMatrix, PlannedTable


def rescored(
    loaded: LoadedModel,
    allocation: Allocation,
    quantized: Mapping[str, QuantizedMatrix],
    scored: LabeledTexts,
    progress: Progress = silent,
) -> Allocation:
    """Return the plan with the losses predicted from its matrices' own quantization errors.

    Args:
        loaded: the reference model.
        allocation: a plan from `directional` scores.
        quantized: the plan's matrices by module, as they will be written.
        scored: the scoring texts of the plan's scores.
        progress: called with matrices done, number of matrices, and the current step.

    Raises:
        UsageError: the plan's scores are from another metric than `directional`.
    """
    if allocation.metric != "directional":
        raise UsageError(f"sequential: scores of metric {allocation.metric} cannot be recomputed; use directional.")
    batches = tokenized(loaded, scored.texts, batch_size=BATCH_SIZE)
    shared = softened(loaded.head, collect(loaded.head, loaded.model, batches))
    plan, alike = replace(shared, seed=allocation.provenance.seed), shared.batched(loaded.head, batches)
    matrices: list[PlannedMatrix] = []
    for block, inside in groupby(allocation.matrices, key=lambda planned: planned.block):
        planned_here = list(inside)
        names = [planned.module for planned in planned_here]
        progress(len(matrices), len(allocation.matrices), f"scores of layer {block + 1} again")
        factors = factor_pass(loaded.model, alike, names, plan, loaded.head)
        for planned in planned_here:
            error = quantized[planned.module].dequantize() - weight_of(loaded.model, planned.module)
            estimate = directional.quadratic_forms(factors.pop(planned.module), error[None])
            update = {
                "predicted_loss": allocation.loss_scale * float(estimate.value[0]),
                "std_error": allocation.loss_scale * float(estimate.std_error[0]),
            }
            matrices.append(planned.model_copy(update=update))
    parts: list[PlannedMatrix | PlannedTable | PlannedActivation | DroppedLayers | DroppedHeads]
    parts = [*matrices, *allocation.tables, *allocation.activations]
    parts += [left_out for left_out in (allocation.dropped, allocation.dropped_heads) if left_out is not None]
    losses = [part.predicted_loss or 0.0 for part in parts]  # tables that were not scored have none
    std_errors = [part.std_error or 0.0 for part in parts]
    total, total_error = math.fsum(losses), math.sqrt(math.fsum(error**2 for error in std_errors))
    # the cross-fitted loss is scaled like the sum of scores, because the plan and its selection bias stay the same
    moved = total / allocation.sum_of_scores if allocation.sum_of_scores > 0 else 1.0
    return allocation.model_copy(
        update={
            "matrices": tuple(matrices),
            "predicted_loss": moved * allocation.predicted_loss if allocation.folds else total,
            "predicted_std_error": moved * allocation.predicted_std_error if allocation.folds else total_error,
            "sum_of_scores": total,
            "sum_std_error": total_error,
            "contains": f"{allocation.contains}; {RESCORED}",
        }
    )
