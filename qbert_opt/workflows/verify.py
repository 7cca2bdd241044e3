"""Plans really measured against each other: an optimum beats uniform plans by construction only on predicted loss."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from ..checkpoint.record import check_belongs
from ..data.texts import LabeledTexts
from ..evaluation.evaluate import Evaluation, evaluate, outputs
from ..models.loading import LoadedModel
from ..quantization.activation_quant import with_rounded_inputs
from ..quantization.calibration import MatrixQuantizer, quantized_matrices
from ..spec.allocation import Allocation


@dataclass(frozen=True, slots=True)
class Measured:
    """A plan with what was measured of it; a uniform plan carries its choice's name."""

    name: str
    allocation: Allocation
    evaluation: Evaluation


def apply_plan(loaded: LoadedModel, allocation: Allocation, quantizer: MatrixQuantizer) -> LoadedModel:
    """Return a copy of a model with the weights that the plan's file would hold, in float32.

    Raises:
        InputFileError: the plan belongs to another model.
    """
    check_belongs(allocation, loaded)
    model: PreTrainedModel = copy.deepcopy(loaded.model)
    stored = {
        f"{module}.weight": quantized.dequantize() for module, quantized in quantized_matrices(quantizer, allocation)
    }
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(stored[name].view_as(parameter) if name in stored else parameter.half().float())
    with_rounded_inputs(model, allocation.activations)
    return replace(loaded, model=model)


def measure_plans(
    loaded: LoadedModel,
    plans: Sequence[tuple[str, Allocation]],
    quantizer: MatrixQuantizer,
    texts: LabeledTexts,
    *,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> list[Measured]:
    """Measure loss against the reference, and quality where there are labels, of several plans on the same texts."""
    truth = outputs(loaded, texts)
    found = []
    for index, (name, allocation) in enumerate(plans):
        progress(index, len(plans), name)
        found.append(Measured(name, allocation, evaluate(apply_plan(loaded, allocation, quantizer), texts, truth)))
    return found


def least_measured(found: Sequence[Measured]) -> Measured:
    """Return the plan of least measured loss."""
    return min(found, key=lambda m: float("inf") if m.evaluation.loss is None else m.evaluation.loss.value)
