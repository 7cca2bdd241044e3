"""Measure plans against each other: an optimal plan is guaranteed to beat uniform plans on predicted loss only."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from ..checkpoint.record import as_planned
from ..data.texts import LabeledTexts
from ..evaluation.evaluate import Evaluation, evaluate, outputs
from ..models.layers import as_weight
from ..models.loading import LoadedModel
from ..planning.assembly import with_activations
from ..planning.recipes import uniform_allocation
from ..quantization.activation_quant import with_rounded_inputs
from ..quantization.calibration import MatrixQuantizer, quantized_matrices
from ..runtime.progress import Progress, silent
from ..spec.allocation import Allocation
from ..spec.choices import choice
from ..spec.scores import ScoreTable
from .quantize import as_scored, writing_quantizer


@dataclass(frozen=True, slots=True)
class Measured:
    """A plan with its measured quality.

    Attributes:
        name: of the plan; a uniform plan is named after its choice.
        allocation: the plan.
        evaluation: what was measured.
    """

    name: str
    allocation: Allocation
    evaluation: Evaluation


@dataclass(frozen=True, slots=True)
class Verification:
    """A plan measured next to its alternatives.

    Attributes:
        measured: this plan first, then the rest of its shortlist, then uniform plans of at most the same size.
        best: the plan with the smallest measured loss.
    """

    measured: tuple[Measured, ...]
    best: Measured


THIS_PLAN = "this plan"


def verify(
    scores: ScoreTable,
    plan: Allocation,
    loaded: LoadedModel,
    data: LabeledTexts,
    texts: LabeledTexts,
    *,
    others: Sequence[Allocation] = (),
    progress: Progress = silent,
) -> Verification:
    """Measure a plan, the rest of its shortlist and the best uniform plans of at most the same size on held-out text.

    Args:
        scores: the table that the plan was solved from.
        plan: the plan.
        loaded: the model that was scored.
        data: the data set that was scored.
        texts: held-out text, used neither for training nor for the scores.
        others: the rest of a shortlist; named `plan 2`, `plan 3` and so on.
        progress: called with the plan that is being measured.

    Raises:
        InputFileError: the model or data set is not the plan's.
    """
    loaded = as_scored(loaded, plan)
    shortlist = [(f"plan {number}", other) for number, other in enumerate(others, 2)]
    uniform = [(f"uniform {u.choice}", uniform_allocation(scores, choice(u.choice))) for u in plan.uniform]
    if plan.activations:
        uniform = [(name, with_activations(rival, plan.activations)) for name, rival in uniform]
    measured = measure_plans(
        loaded,
        [(THIS_PLAN, plan), *shortlist, *uniform],
        writing_quantizer(loaded, plan, data),
        texts,
        progress=progress,
    )
    return Verification(tuple(measured), least_measured(measured))


def apply_plan(loaded: LoadedModel, allocation: Allocation, quantizer: MatrixQuantizer) -> LoadedModel:
    """Return a copy of a model with the weights of the plan's quantized folder, in float32.

    Args:
        loaded: the float model.
        allocation: the plan.
        quantizer: rounds the matrices.

    Raises:
        InputFileError: the plan belongs to another model.
    """
    loaded = as_planned(allocation, loaded)
    model: PreTrainedModel = copy.deepcopy(loaded.model)
    stored = {
        f"{module}.weight": as_weight(model.get_submodule(module), quantized.dequantize())
        for module, quantized in quantized_matrices(quantizer, allocation)
    }
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(stored[name] if name in stored else parameter.half().float())
    with_rounded_inputs(model, allocation.activations)
    return replace(loaded, model=model)


def measure_plans(
    loaded: LoadedModel,
    plans: Sequence[tuple[str, Allocation]],
    quantizer: MatrixQuantizer,
    texts: LabeledTexts,
    *,
    progress: Progress = silent,
) -> list[Measured]:
    """Measure several plans on the same texts: loss relative to the float model, and quality if there are labels.

    Args:
        loaded: the float model.
        plans: name and plan.
        quantizer: rounds the matrices of every plan.
        texts: held-out text.
        progress: called with plans done, number of plans, and the current plan.
    """
    truth = outputs(loaded, texts)
    measured = []
    for index, (name, allocation) in enumerate(plans):
        progress(index, len(plans), name)
        measured.append(Measured(name, allocation, evaluate(apply_plan(loaded, allocation, quantizer), texts, truth)))
    return measured


def least_measured(measured: Sequence[Measured]) -> Measured:
    """Return the plan with the smallest measured loss; one without a measured loss comes last.

    Args:
        measured: at least one plan.
    """
    return min(measured, key=lambda m: float("inf") if m.evaluation.loss is None else m.evaluation.loss.value)
