"""Plans really measured against each other: an optimum beats uniform plans by construction only on predicted loss."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from ..checkpoint.record import check_belongs
from ..data.texts import LabeledTexts
from ..evaluation.evaluate import Evaluation, evaluate, outputs
from ..models.loading import LoadedModel
from ..planning.assembly import with_activations
from ..planning.recipes import uniform_allocation
from ..quantization.activation_quant import with_rounded_inputs
from ..quantization.calibration import MatrixQuantizer, quantized_matrices
from ..runtime.progress import Progress, silent
from ..spec.allocation import Allocation
from ..spec.choices import choice
from ..spec.scores import ScoreTable
from .quantize import as_scored, plan_quantizer


@dataclass(frozen=True, slots=True)
class Measured:
    """A plan with what was measured of it; a uniform plan carries its choice's name."""

    name: str
    allocation: Allocation
    evaluation: Evaluation


@dataclass(frozen=True, slots=True)
class Verification:
    """A plan measured beside its rivals.

    Attributes:
        measured: this plan first, then the rest of its shortlist, then uniform plans of no more bytes.
        best: the one of least measured loss.
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
    """Measure a plan, the rest of its shortlist and the best uniform plans of no more bytes on held-out text.

    Args:
        scores: the table that the plan was made of.
        plan: the plan.
        loaded: the model that was scored.
        data: the calibration set of the scores.
        texts: held-out text, seen neither by the model's training nor by the scores.
        others: the rest of a shortlist; named `plan 2`, `plan 3` and so on.
        progress: told which plan is being measured.

    Raises:
        InputFileError: another model or another calibration set than the plan's.
    """
    loaded = as_scored(loaded, plan)
    shortlist = [(f"plan {number}", other) for number, other in enumerate(others, 2)]
    uniform = [(f"uniform {u.choice}", uniform_allocation(scores, choice(u.choice))) for u in plan.uniform]
    if plan.activations:
        uniform = [(name, with_activations(rival, plan.activations)) for name, rival in uniform]
    measured = measure_plans(
        loaded, [(THIS_PLAN, plan), *shortlist, *uniform], plan_quantizer(loaded, plan, data), texts, progress=progress
    )
    return Verification(tuple(measured), least_measured(measured))


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
    progress: Progress = silent,
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
