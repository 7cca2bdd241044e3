"""Measured figures for a report, read from what `evaluate --json` and `optimize` wrote."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from ..errors import InputFileError
from ..evaluation.intervals import Interval
from ..planning.measured_points import SCHEMA as POINTS_SCHEMA
from ..planning.measured_points import MeasuredPoint, MeasuredPoints, read_measured
from ..runtime.files import MAX_JSON_BYTES, read_document
from ..runtime.input_files import decode_text, parse_json, read_bytes
from ..spec.allocation import Allocation
from ..workflows.outcome import SCHEMA as OUTCOME_SCHEMA
from ..workflows.outcome import Measured, Outcome


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """What was measured of one model; a figure that was not measured is None.

    Attributes:
        name: name of the model.
        source: the file that contains the figures.
        num_texts: number of texts that were answered.
        encoder_bytes: packed bytes of its matrices, by which its plan is recognized.
        engine_bytes: bytes of the engine's files.
        drop: drop in accuracy relative to the float model, with paired 95 % interval.
        flips: share of texts whose answer changed, with exact 95 % interval.
        predicted_drop: prediction of `drop`, with 95 % prediction interval.
        predicted_flips: prediction of `flips`, with 95 % prediction interval.
        loss: loss relative to the float model in the plan's unit, with 95 % interval.
        latency_s: latency of one inference on the machine that measured.
        memory_bytes: private memory that the model added to the process.
        engine: engine and version in which `latency_s` and `memory_bytes` were measured.
    """

    name: str
    source: str
    num_texts: int | None = None
    encoder_bytes: int | None = None
    engine_bytes: int | None = None
    drop: Interval | None = None
    flips: Interval | None = None
    predicted_drop: Interval | None = None
    predicted_flips: Interval | None = None
    loss: Interval | None = None
    latency_s: float | None = None
    memory_bytes: int | None = None
    engine: str | None = None


@dataclass(frozen=True, slots=True)
class Measurements:
    """All measurements for a report.

    Attributes:
        plan: the plan itself; None if it was not measured.
        original: the float model.
        uniform_8bit: the uniform 8-bit plan that `optimize` compared with.
        uniform_8bit_choice: its choice.
        others: further models.
        outcome: what `optimize` found, if one of the files is its result.
        what: a line for each file that says what was measured on which text.
    """

    plan: MeasuredModel | None = None
    original: MeasuredModel | None = None
    uniform_8bit: MeasuredModel | None = None
    uniform_8bit_choice: str | None = None
    others: tuple[MeasuredModel, ...] = ()
    outcome: Outcome | None = None
    what: tuple[str, ...] = ()

    @property
    def models(self) -> tuple[MeasuredModel, ...]:
        """Every model with a measured loss, this plan first."""
        known = (self.plan, self.uniform_8bit, *self.others)
        return tuple(model for model in known if model is not None and model.loss is not None)


class _Timing(BaseModel):
    """The figures of `engines.timing.Timing` that a report shows."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    engine_label: str
    threads: int | None = None
    cpu_s: tuple[FiniteFloat, ...] = Field(min_length=1)
    wall_s: tuple[FiniteFloat, ...] = Field(min_length=1)
    private_bytes: int | None = None
    floor_bytes: int | None = None

    @property
    def latency_s(self) -> float:
        """Median time of a run: processor time on one thread, wall-clock time on several."""
        return statistics.median(self.cpu_s if self.threads == 1 else self.wall_s)

    @property
    def model_bytes(self) -> int | None:
        """Private memory that the model added to the process."""
        if self.private_bytes is None or self.floor_bytes is None:
            return None
        return max(0, self.private_bytes - self.floor_bytes)


class _Evaluation(MeasuredPoints):
    """What `evaluate --json` writes in addition to measured points; files written by hand lack it."""

    kind: str | None = None
    num_samples: int | None = Field(default=None, ge=1)
    flipped: int | None = Field(default=None, ge=0)
    lost: int | None = Field(default=None, ge=0)
    won: int | None = Field(default=None, ge=0)
    perplexity: Interval | None = None
    agreement: Interval | None = None
    timing: dict[str, _Timing] = Field(default_factory=dict)

    @property
    def next_tokens(self) -> str:
        """The quality measures of a decoder as text; empty for other models."""
        said = []
        if self.perplexity is not None:
            said.append(
                f"perplexity {self.perplexity.value:.4g} [{self.perplexity.low:.4g}, {self.perplexity.high:.4g}]"
            )
        if self.agreement is not None:
            ends = (100 * end for end in (self.agreement.value, self.agreement.low, self.agreement.high))
            said.append("top-1 agreement {:.2f} % [{:.2f}, {:.2f}]".format(*ends))
        return ", ".join(said)

    @model_validator(mode="after")
    def _counted(self) -> _Evaluation:
        for name in ("flipped", "lost", "won"):
            count = getattr(self, name)
            if self.kind == "classes" and count is not None and count > (self.num_samples or 0):
                raise ValueError(f"{name}: {count} of {self.num_samples} texts")
        return self


def read_measurements(paths: Sequence[str | Path], plan: Allocation) -> Measurements:
    """Read files of measurements and find the plan among them.

    A measured point belongs to the plan if its `encoder_bytes` are the plan's, or if it is the first and has none.

    Args:
        paths: files of `evaluate --json`, files of measured points, or `optimized.json`.
        plan: the plan of the report.

    Raises:
        InputFileError: a file is missing, malformed or of another schema, or `optimized.json` is about another plan.
    """
    merged = Measurements()
    for path in paths:
        content = parse_json(decode_text(read_bytes(Path(path), MAX_JSON_BYTES, "a file of measurements"), path), path)
        schema = content.get("schema") if isinstance(content, dict) else None
        if schema == OUTCOME_SCHEMA:
            merged = _joined(merged, of_outcome(read_document(path, Outcome, OUTCOME_SCHEMA), str(path), plan))
        else:
            merged = _joined(merged, _of_evaluation(path, plan, first=merged.plan is None))
    return merged


def _joined(one: Measurements, two: Measurements) -> Measurements:
    """Merge two sets of measurements; the first takes precedence."""
    uniform = one if one.uniform_8bit is not None else two
    spare = [two.plan] if one.plan is not None and two.plan is not None else []
    return Measurements(
        plan=one.plan or two.plan,
        original=one.original or two.original,
        uniform_8bit=uniform.uniform_8bit,
        uniform_8bit_choice=uniform.uniform_8bit_choice,
        others=(*one.others, *spare, *two.others),
        outcome=one.outcome or two.outcome,
        what=(*one.what, *two.what),
    )


def of_outcome(outcome: Outcome, source: str, plan: Allocation) -> Measurements:
    """Return what `optimize` measured.

    Args:
        outcome: what it found.
        source: its file, for messages.
        plan: the plan of the report.

    Raises:
        InputFileError: it is about another plan.
    """
    if outcome.plan.stored_bytes != plan.total_bytes:
        raise InputFileError(
            f"{source}: measures a plan of {outcome.plan.stored_bytes} bytes, this one has {plan.total_bytes}. Give "
            "the allocation.json that lies beside it."
        )

    def model(row: Measured, encoder_bytes: int | None = None) -> MeasuredModel:
        return MeasuredModel(
            row.name, source, row.num_texts, encoder_bytes, row.engine_bytes, row.drop, row.flips,
            row.predicted_drop, row.predicted_flips, row.kl, row.latency_s, None, outcome.engine,
        )  # fmt: skip

    where = outcome.engine or "PyTorch"
    return Measurements(
        plan=model(outcome.plan, plan.encoder_bytes),
        original=model(outcome.original),
        uniform_8bit=None if outcome.uniform is None else model(outcome.uniform),
        uniform_8bit_choice=outcome.uniform_choice,
        outcome=outcome,
        what=(f"{source}: measured by optimize in {where} on {outcome.plan.num_texts} texts ({outcome.texts})",),
    )


def _of_evaluation(path: str | Path, plan: Allocation, *, first: bool) -> Measurements:
    """Return the measured points of a file, with the further figures that `evaluate --json` writes."""
    points = read_measured(path)
    document = read_document(path, _Evaluation, POINTS_SCHEMA)
    models = [_with_answers(_of_point(points.points[0], str(path)), document)]
    models += [_of_point(point, str(path)) for point in points.points[1:]]
    found = next((m for m in models if m.encoder_bytes == plan.encoder_bytes), None)
    if found is None and first and models[0].encoder_bytes is None:
        found = models[0]
    timings = list(document.timing.values())
    original = None
    if len(timings) > 1:  # the reference comes first
        reference = timings[0]
        original = MeasuredModel(
            "float32", str(path), document.num_samples, latency_s=reference.latency_s,
            memory_bytes=reference.model_bytes, engine=reference.engine_label,
        )  # fmt: skip
    return Measurements(
        plan=found,
        original=original,
        others=tuple(m for m in models if m is not found),
        what=(": ".join(filter(None, (str(path), points.what, document.next_tokens))),),
    )


def _of_point(point: MeasuredPoint, source: str) -> MeasuredModel:
    low, high = (point.loss if end is None else end for end in (point.low, point.high))
    return MeasuredModel(
        point.name, source, encoder_bytes=point.encoder_bytes, loss=Interval(point.loss, low, high),
        latency_s=point.latency_s,
    )  # fmt: skip


def _with_answers(model: MeasuredModel, document: _Evaluation) -> MeasuredModel:
    """Add changed answers and the engine's time and memory; these figures of a file belong to its first point."""
    timings = list(document.timing.values())
    if timings:
        own = timings[-1]
        model = replace(model, latency_s=own.latency_s, memory_bytes=own.model_bytes, engine=own.engine_label)
    if document.kind != "classes" or document.num_samples is None or document.flipped is None:
        return replace(model, num_texts=document.num_samples)
    from ..evaluation.counts import ChangedAnswers  # loads torch, which a report without measurements need not

    changed = ChangedAnswers(document.num_samples, document.flipped, document.lost, document.won)
    return replace(model, num_texts=document.num_samples, drop=changed.drop, flips=changed.flips)
