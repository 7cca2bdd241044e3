"""Quantize a plan's matrices block by block, calibrating each on inputs that contain the errors of earlier blocks."""

from __future__ import annotations

import copy

from ..data.texts import LabeledTexts
from ..errors import UsageError
from ..models.loading import LoadedModel
from ..runtime.progress import Progress, silent
from ..spec.allocation import Allocation
from .calibration import fit_batches, fit_grams, quantized_tables, weight_of
from .quantized_matrix import QuantizedMatrix, StoredMatrix
from .quantizer import quantizer


def sequential_matrices(
    loaded: LoadedModel,
    plan: Allocation,
    fit: LabeledTexts | None,
    progress: Progress = silent,
    *,
    method: str | None = None,
) -> tuple[StoredMatrix, ...]:
    """Quantize a plan's matrices in order of execution, then its tables.

    Args:
        loaded: the model that the plan was made for; not modified.
        plan: the choice of each matrix and table.
        fit: calibration texts that fit the quantizer.
        progress: called with matrices done, total matrices, and a description.
        method: name of the quantizer; None is that of the plan's scores.

    Returns:
        Every matrix and table, in the plan's order.

    Raises:
        UsageError: there is no calibration text, or the method does not use inputs, so order has no effect.
    """
    name = method or plan.method
    plugin = quantizer(name)
    if not plugin.NEEDS_GRAM:
        raise UsageError(f"`sequential`: method {name} does not use inputs. Leave `sequential` out.")
    batches = fit_batches(loaded, name, fit)
    layouts = {matrix.module: matrix.layout for matrix in plan.matrices}
    quantized: dict[str, QuantizedMatrix] = {}
    working = copy.deepcopy(loaded.model)
    for block in sorted({matrix.block for matrix in plan.profile.matrices}):
        inside = [matrix.module for matrix in plan.profile.matrices if matrix.block == block]
        progress(len(quantized), len(layouts), inside[0])
        grams = fit_grams(working, name, batches, inside, loaded.head)
        for module in inside:
            weight = weight_of(loaded.model, module).contiguous()
            [quantized[module]] = plugin.quantize(weight, [layouts[module]], grams[module])
            weight_of(working, module).copy_(quantized[module].dequantize())
    matrices = (StoredMatrix(module, quantized[module]) for module in layouts)
    return (*matrices, *quantized_tables(loaded.model, plan))
