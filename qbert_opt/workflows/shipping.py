"""Turn a plan into files that run, and measure these on the check texts in their engine."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..checkpoint.reader import load_quantized
from ..checkpoint.record import PLAN
from ..data.texts import LabeledTexts
from ..engines.engine_module import engine_module
from ..engines.opening import open_session
from ..engines.record import EngineRecord, is_exported, read_record
from ..engines.session import Activations, engine
from ..errors import QbertOptWarning
from ..evaluation.counts import ChangedAnswers, changed_answers
from ..evaluation.evaluate import Evaluation, evaluation_batches, measure
from ..models.loading import LoadedModel
from ..models.outputs import Outputs, collect
from ..models.samples import Targets
from ..models.targets import read_targets
from ..runtime.progress import Progress
from ..spec.allocation import Allocation, read_allocation
from .export import export_model
from .quantize import quantize_model

QUANTIZED = "quantized"


@dataclass(frozen=True, slots=True, eq=False)
class CheckSetup:
    """The setup with which every plan of a run is measured.

    Attributes:
        loaded: the float model.
        data: the data set that was scored.
        check: the texts to measure on.
        truth: the float model's outputs for them.
        targets: the correct answers; None without labels.
        engine: where the model will run; None measures in PyTorch.
        activations: how the engine rounds the inputs of products; None takes the fastest way that the plan allows.
    """

    loaded: LoadedModel
    data: LabeledTexts
    check: LabeledTexts
    truth: Outputs
    targets: Targets | None
    engine: str | None
    activations: Activations | None

    @property
    def reference(self) -> Evaluation:
        """The float model's own quality."""
        return measure(self.truth, self.targets, self.truth.values)


@dataclass(frozen=True, slots=True)
class Shipped:
    """A plan with its files and their measured quality.

    Attributes:
        plan: the plan.
        folder: holds `quantized/`, and the engine's folder if exported.
        exported: record of the export; None without an engine.
        measured: quality and loss relative to the float model, in the engine.
        changed: texts whose answers changed.
    """

    plan: Allocation
    folder: Path
    exported: EngineRecord | None
    measured: Evaluation
    changed: ChangedAnswers

    @property
    def quantized(self) -> Path:
        """The quantized folder."""
        return self.folder / QUANTIZED

    def moved(self, folder: Path) -> Shipped:
        """Move its folders to another one, where they replace folders of the same name, and return where they are.

        Args:
            folder: an existing folder on the same file system.
        """
        for part in (self.quantized, *([self.folder / self.exported.engine] if self.exported else ())):
            target = folder / part.name
            if target.exists():
                shutil.rmtree(target)
            part.replace(target)
        return replace(self, folder=folder)


def check_setup(
    loaded: LoadedModel,
    data: LabeledTexts,
    check: LabeledTexts,
    engine_name: str | None,
    activations: Activations | None,
) -> CheckSetup:
    """Ask the float model about the check texts.

    Args:
        loaded: the float model.
        data: the data set that was scored.
        check: the texts to measure on.
        engine_name: where the model will run; None measures in PyTorch.
        activations: how the engine rounds the inputs of products; None takes the fastest way that the plan allows.

    Raises:
        InputFileError: labels that the model does not know.
        UsageError: there are no check texts.
    """
    truth, targets = answers_and_targets(loaded, check)
    return CheckSetup(loaded, data, check, truth, targets, engine_name, activations)


def answers_and_targets(loaded: LoadedModel, texts: LabeledTexts) -> tuple[Outputs, Targets | None]:
    """Return a model's answers to texts, and the right ones where there are labels.

    Args:
        loaded: the model, in evaluation mode.
        texts: to answer.

    Raises:
        InputFileError: labels that the model does not know.
        UsageError: there are no texts.
    """
    batches = evaluation_batches(loaded, texts)
    targets = read_targets(loaded, texts, batches)  # first, so that a wrong label is reported before a long run
    return collect(loaded.head, loaded.model, batches), targets


def ship(setup: CheckSetup, plan: Allocation, folder: Path, progress: Progress) -> Shipped:
    """Quantize, export, run on the check texts and measure; existing folders of the same plan are reused.

    Args:
        setup: model, texts and engine.
        plan: the plan.
        folder: holds the written folders; it is created.
        progress: called with the current step.

    Raises:
        InputFileError: the export's answers differ from PyTorch's.
        UsageError: the engine cannot run the plan.
    """
    folder.mkdir(exist_ok=True)
    quantized = folder / QUANTIZED
    if not _written(quantized, plan):
        quantize_model(setup.loaded, plan, setup.data, quantized, progress=progress)
    if setup.engine is None:
        progress(0, 1, "running the check texts")
        opened, _ = load_quantized(quantized)
        return Shipped(plan, folder, None, *_measured(setup, replace(opened, max_tokens=setup.loaded.max_tokens)))
    exported = folder / setup.engine
    if _written(exported, plan) and is_exported(exported):
        record = read_record(exported)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", QbertOptWarning)  # what it says is in the record too
            record = export_model(quantized, setup.engine, exported, activations=setup.activations, progress=progress)
    progress(0, 1, f"running the check texts in {setup.engine}")
    session = open_session(engine(setup.engine), exported, None, record.activations)
    original = setup.loaded.model
    module = engine_module(session, record.inputs, original.config, type(original).__name__)
    return Shipped(plan, folder, record, *_measured(setup, replace(setup.loaded, model=module)))


def _written(folder: Path, plan: Allocation) -> bool:
    """Whether a folder of exactly this plan exists; one of another plan is removed."""
    if not folder.exists():
        return False
    if (folder / PLAN).is_file() and read_allocation(folder / PLAN) == plan:
        return True
    shutil.rmtree(folder)
    return False


@torch.no_grad()
def _measured(setup: CheckSetup, running: LoadedModel) -> tuple[Evaluation, ChangedAnswers]:
    answers = collect(setup.loaded.head, running.model, evaluation_batches(setup.loaded, setup.check))
    truth = setup.truth.values
    return measure(answers, setup.targets, truth), changed_answers(answers, truth, setup.targets)
