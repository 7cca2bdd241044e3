"""Measure a folder on held-out text: a model, a quantized or an exported one, beside the float model it came from."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from ..checkpoint.reader import folder_bytes, is_quantized, load_quantized
from ..checkpoint.record import check_belongs, read_record
from ..data.texts import LabeledTexts
from ..engines.record import is_exported
from ..engines.timing import Timing, time_model
from ..errors import QbertOptWarning, UsageError
from ..evaluation.evaluate import Evaluation, comparable, evaluate, reference_outputs
from ..models.loading import LoadedModel, cut_at, load_model
from ..planning.measured_points import SCHEMA, MeasuredPoint, MeasuredPoints
from ..spec.allocation import Allocation
from .engine_model import Served, serve

TIMED_TOKENS = 128


@dataclass(frozen=True, slots=True)
class MeasuredFolder:
    """A folder with what was measured of it.

    Attributes:
        folder: as it was named.
        evaluation: quality, and loss against the reference where there is one.
        stored_bytes: of its weights on disk.
        plan: what a quantized or exported folder was made by; None for a model folder.
        predicted_loss: the plan's; None where there is none or training, or another loss unit, made it void.
        timing: of runs in an engine; None where none was asked for.
    """

    folder: str
    evaluation: Evaluation
    stored_bytes: int
    plan: Allocation | None = None
    predicted_loss: float | None = None
    timing: Timing | None = None

    def point(self) -> MeasuredPoint | None:
        """Return what `pareto` and `report` draw of it; None where there was no reference to lose against."""
        loss = self.evaluation.loss
        if loss is None:
            return None
        return MeasuredPoint(
            name=Path(self.folder).name or self.folder,
            loss=loss.value,
            low=min(loss.low, loss.value),
            high=max(loss.high, loss.value),
            encoder_bytes=None if self.plan is None else self.plan.encoder_bytes,
            latency_s=None if self.timing is None else self.timing.median_wall_s,
        )


def measure_folder(
    folder: str,
    texts: LabeledTexts,
    *,
    reference: str | None = None,
    engine: str | None = None,
    threads: int | None = 1,
    seq_len: int | None = None,
    max_tokens: int | None = None,
) -> tuple[MeasuredFolder, ...]:
    """Measure a folder, after its reference where one is given.

    Args:
        folder: a model folder, a quantized or an exported one.
        texts: held-out text; labels are needed for every figure but the loss against the reference.
        reference: folder of the float model to compare outputs with.
        engine: also time the folder in `torch`, `openvino` or `onnxruntime`; an exported folder is timed in its own.
        threads: processor threads of the engine; None is its own choice.
        seq_len: tokens of one timed run; None is 128, or the model's window where that is less.
        max_tokens: cut longer texts here; None is the model's window.

    Returns:
        The reference, if there is one, and last the folder itself.

    Raises:
        InputFileError: a folder is broken, or the reference is another model.
        UsageError: an engine that is unknown, not installed or not this folder's, or a `seq_len` beyond the window.

    Warns:
        QbertOptWarning: the folder was trained on these very texts.
    """
    subject, plan, served = _opened(folder, engine, threads)
    window = subject.tokenizer.model_max_length
    if seq_len is not None and seq_len > window:
        raise UsageError(f"`seq_len` {seq_len}: {folder} reads {window} tokens at most.")
    subject = cut_at(subject, max_tokens)
    measured = []
    outputs = None
    if reference is not None:
        original = load_model(reference)
        if plan is not None:
            check_belongs(plan, original)
        subject, original = comparable(subject, cut_at(original, max_tokens))
        outputs = reference_outputs(original, subject, texts)
        measured.append(MeasuredFolder(reference, evaluate(original, texts), folder_bytes(reference)))
    evaluation = evaluate(subject, texts, outputs)
    trained = _trained_on(folder, texts)  # training changed the codes: the plan's prediction is of other ones
    holds = plan is not None and plan.loss_unit == evaluation.loss_unit and not trained
    measured.append(
        MeasuredFolder(
            folder,
            evaluation,
            folder_bytes(folder) if served is None else served.stored_bytes,
            plan,
            plan.predicted_loss if plan is not None and holds else None,
        )
    )
    if served is None:
        return tuple(measured)
    tokens = seq_len or min(TIMED_TOKENS, window)
    timed = [*(() if reference is None else (Path(reference),)), served.folder]
    return tuple(
        replace(row, timing=time_model(path, seq_len=tokens, threads=threads))
        for row, path in zip(measured, timed, strict=True)
    )


def measured_points(measured: MeasuredFolder, reference: str | None, texts: LabeledTexts) -> MeasuredPoints:
    """Return what `pareto --measured` and `report --measured` read.

    Args:
        measured: a folder.
        reference: folder of the float model, for the description.
        texts: what it was measured on.
    """
    unit = measured.evaluation.loss_unit
    what = f"{unit} against {reference} on {len(texts)} texts of {texts.name}"
    point = measured.point()
    return MeasuredPoints(schema=SCHEMA, what=what, points=() if point is None else (point,))


def _opened(
    folder: str, engine: str | None, threads: int | None
) -> tuple[LoadedModel, Allocation | None, Served | None]:
    """Open a folder: in an engine where one is asked for or the folder is an engine's."""
    if engine is not None or is_exported(folder):
        served = serve(folder, engine, threads=threads)
        return served.loaded, served.allocation, served
    if is_quantized(folder):
        return (*load_quantized(folder), None)
    return load_model(folder), None, None


def _trained_on(folder: str, texts: LabeledTexts) -> bool:
    """Tell whether a quantized folder was trained; warns where that was on the very texts it is measured on."""
    training = read_record(Path(folder)).training if is_quantized(folder) and not is_exported(folder) else None
    if training is not None and texts.sha256 in training.drawn_from:
        warnings.warn(
            f"{texts.name}: {folder} was trained on this text, so the results are too good. Give held-out text.",
            QbertOptWarning,
            stacklevel=3,
        )
    return training is not None
