"""Measure a float, quantized or exported model folder on held-out text, and compare it with the float model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ..checkpoint.reader import folder_bytes, is_quantized, load_quantized
from ..checkpoint.record import as_planned, read_record
from ..data.texts import LabeledTexts
from ..engines.record import is_exported
from ..engines.record import read_record as read_engine_record
from ..engines.timing import Timing, time_model
from ..errors import QbertOptWarning, UsageError
from ..evaluation.evaluate import Evaluation, evaluate
from ..evaluation.references import comparable, reference_outputs
from ..evaluation.retrieval import NEIGHBOURS
from ..models.loading import LoadedModel, cut_at, load_model
from ..models.pages import Paging
from ..planning.measured_points import SCHEMA, MeasuredPoint, MeasuredPoints
from ..spec.allocation import Allocation
from .engine_model import Served, serve

TIMED_TOKENS = 128


@dataclass(frozen=True, slots=True)
class MeasuredFolder:
    """A folder with its measurements.

    Attributes:
        folder: as given by the user.
        evaluation: quality, and loss relative to the reference if there is one.
        stored_bytes: bytes of its weights on disk.
        plan: the plan of a quantized or exported folder; None for a float model.
        predicted_loss: the plan's predicted loss; None without a plan, after training, or in another loss unit.
        timing: latency and memory in an engine; None if it was not timed.
    """

    folder: str
    evaluation: Evaluation
    stored_bytes: int
    plan: Allocation | None = None
    predicted_loss: float | None = None
    timing: Timing | None = None

    def point(self) -> MeasuredPoint | None:
        """Return the point that `pareto` and `report` draw; None without a reference."""
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
    paging: Paging | None = None,
) -> tuple[MeasuredFolder, ...]:
    """Measure a folder, and first its reference if one is given.

    Args:
        folder: a float, quantized or exported model folder.
        texts: held-out text; labels are needed for every figure except the loss relative to the reference.
        reference: folder of the float model to compare outputs with.
        engine: engine to time the folder in, for example `onnxruntime`; an exported folder is timed in its own engine.
        threads: CPU threads of the engine; None lets it choose.
        seq_len: tokens of one timed run; None is 128, or the model's window if that is less.
        max_tokens: length at which texts are truncated; None is the model's window.
        paging: whether weights stay on disk, except in an engine; never if None.

    Returns:
        The reference, if there is one, then the folder itself.

    Raises:
        InputFileError: a folder is damaged, or the reference is another model.
        UsageError: the engine is unknown, not installed, or another than the folder's; or `seq_len` exceeds the window.

    Warns:
        QbertOptWarning: the folder was trained on the same texts; or there are too few texts for a recall, or pairs
            without labels, so that a figure is missing.
    """
    subject, plan, served = _opened(folder, engine, threads, paging)
    window = subject.tokenizer.model_max_length
    if seq_len is not None and seq_len > window:
        raise UsageError(f"`seq_len` {seq_len}: {folder} reads {window} tokens at most.")
    subject = cut_at(subject, max_tokens)
    measured = []
    outputs = None
    if reference is not None:
        original = load_model(reference, paging=paging)
        if plan is not None:
            as_planned(plan, original)
        subject, original = comparable(subject, cut_at(original, max_tokens))
        outputs = reference_outputs(original, subject, texts)
        measured.append(MeasuredFolder(reference, evaluate(original, texts), folder_bytes(reference)))
    evaluation = evaluate(subject, texts, outputs)
    if subject.head.spec.retrieves:
        _warn_of_missing_figures(texts, reference is not None)
    trained = _trained_on(folder, texts)  # training changed the codes, so the plan's prediction no longer applies
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


def _warn_of_missing_figures(texts: LabeledTexts, compared: bool) -> None:
    """Say which figures of embeddings these texts cannot have."""
    collection = sum(len(text) for text in texts.texts)
    missing = [k for k in NEIGHBOURS if k >= collection] if compared else []
    reasons = []
    if missing:
        names = ", ".join(f"recall@{k}" for k in missing)
        reasons.append(f"{collection} texts are too few for {names}; give at least {max(missing) + 1}")
    if texts.labels is None and all(len(text) == 2 for text in texts.texts):
        reasons.append("pairs without labels have no Spearman correlation; name their scores with `label_column`")
    for reason in reasons:
        warnings.warn(f"{texts.name}: {reason}.", QbertOptWarning, stacklevel=4)


def measured_points(measured: MeasuredFolder, reference: str | None, texts: LabeledTexts) -> MeasuredPoints:
    """Return the measured points that `pareto --measured` and `report --measured` read.

    Args:
        measured: a measured folder.
        reference: folder of the float model, for the description.
        texts: the texts that it was measured on.
    """
    unit = measured.evaluation.loss_unit
    what = f"{unit} against {reference} on {len(texts)} texts of {texts.name}"
    point = measured.point()
    return MeasuredPoints(schema=SCHEMA, what=what, points=() if point is None else (point,))


def evaluation_document(
    measured: Sequence[MeasuredFolder], reference: str | None, texts: LabeledTexts
) -> dict[str, Any]:
    """Return what `evaluate --json` prints: measured points, every figure of the last folder, timings by folder.

    Args:
        measured: the reference, if there is one, and last the folder that is evaluated.
        reference: folder of the float model, for the description.
        texts: what they were measured on.
    """
    *_, last = measured
    points = measured_points(last, reference, texts)
    document: dict[str, Any] = points.model_dump(mode="json", by_alias=True, exclude_none=True)
    document |= TypeAdapter(Evaluation).dump_python(last.evaluation, mode="json")
    timings = {row.folder: asdict(row.timing) for row in measured if row.timing is not None}
    return document | ({"timing": timings} if timings else {})


def _opened(
    folder: str, engine: str | None, threads: int | None, paging: Paging | None
) -> tuple[LoadedModel, Allocation | None, Served | None]:
    """Open a folder in the given engine or the one it was exported to, else in torch."""
    if engine is not None or is_exported(folder):
        served = serve(folder, engine, threads=threads)
        return served.loaded, served.allocation, served
    if is_quantized(folder):
        return (*load_quantized(folder, paging=paging), None)
    return load_model(folder, paging=paging), None, None


def _trained_on(folder: str, texts: LabeledTexts) -> bool:
    """Return whether a folder's codes were trained; warns if they were trained on the texts they are measured on."""
    trained_on: tuple[str, ...] = ()
    if is_exported(folder):
        trained_on = read_engine_record(folder).trained_on
    elif is_quantized(folder):
        trained_on = read_record(Path(folder)).trained_on
    if texts.sha256 in trained_on:
        warnings.warn(
            f"{texts.name}: {folder} was trained on this text, so the results are too good. Give held-out text.",
            QbertOptWarning,
            stacklevel=3,
        )
    return bool(trained_on)
