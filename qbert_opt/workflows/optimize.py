"""Everything in one call: score, plan, quantize, export, run in the engine, measure, and compare with 8 bits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ..costs.devices import check_engine, given_device
from ..costs.workload import Workload
from ..data.texts import LabeledTexts, read_texts
from ..engines.record import EngineRecord
from ..engines.session import Activations, check_activations, exporting_format, rules_of
from ..errors import UsageError
from ..evaluation.evaluate import Evaluation
from ..evaluation.flips import check_answers
from ..models.loading import LoadedModel, load_model
from ..models.outputs import LOSS_UNITS
from ..models.structure import profile_model
from ..planning.budgets import parse_budget
from ..planning.constraints import PlanConstraints
from ..planning.possible import check_possible
from ..quantization.calibration import CalibrationPlan
from ..runtime.progress import Progress, silent
from ..scoring.task import metric_named
from ..spec.allocation import Allocation
from ..spec.limits import Limits
from ..spec.quality import QualityLimits, parse_quality
from ..spec.scores import ScoreTable
from .comparison import compared
from .export import check_convertible, export_float
from .outcome import Outcome
from .output_folder import OutputFolder
from .route import LEAST, Request, planned_widths
from .scored_grid import scored_forms, scored_widths, unscored_table
from .shipping import QUANTIZED
from .text_split import split_texts

if TYPE_CHECKING:
    from hwmodels import CostReport, Device


@dataclass(frozen=True, slots=True)
class Optimized:
    """A quantized model with its plan, predicted cost and measured quality.

    Attributes:
        plan: the plan, with its proof and predicted loss.
        predicted: cost on the device; None without a device.
        measured: quality, and loss relative to the float model, in the engine on `measured_on`; in PyTorch without one.
        measured_on: name of the text.
        folder: contains `scores.json`, `allocation.json`, `optimized.json`, `quantized/`, and `ENGINE/` if exported.
        exported: record of the export; None if nothing was exported.
        outcome: all findings, with the float and the uniform 8-bit model for comparison; `optimized.json`.
    """

    plan: Allocation
    predicted: CostReport | None
    measured: Evaluation
    measured_on: str
    folder: Path
    exported: EngineRecord | None
    outcome: Outcome

    @property
    def quantized(self) -> Path:
        """The quantized folder."""
        return self.folder / QUANTIZED

    def __repr__(self) -> str:
        """Return one line."""
        engine = None if self.exported is None else self.exported.engine
        return f"Optimized({str(self.folder)!r}, plan={self.plan!r}, engine={engine!r})"

    def __str__(self) -> str:
        """The result in a few lines."""
        loss = self.measured.loss
        lines = [
            f"{self.folder}: {self.plan.total_bytes:,} bytes, {self.plan.average_bits:.2f} bits per encoder weight",
            f"predicted loss {self.plan.predicted_loss:.4g} {self.plan.loss_unit}",
        ]
        if loss is not None:
            lines.append(f"measured loss  {loss.value:.4g} [{loss.low:.4g}, {loss.high:.4g}] on {self.measured_on}")
        if self.predicted is not None:
            lines.append(f"predicted latency {1e3 * self.predicted.latency_s:.3g} ms on {self.predicted.device}")
        if self.exported is not None:
            lines.append(
                f"exported to {self.exported.engine_label}, difference to PyTorch {self.exported.difference:.2g}"
            )
        return "\n".join(lines)


def optimize(
    model: str | Path | LoadedModel,
    data: str | Path | LabeledTexts,
    output: str | Path,
    *,
    budget: str | None = None,
    total_budget: str | None = None,
    max_accuracy_drop: str | None = None,
    max_flips: str | None = None,
    confidence: str | float = 0.95,
    device: str | Device | None = None,
    engine: str | None = None,
    activations: Activations | None = None,
    test_data: str | Path | LabeledTexts | None = None,
    limits: Limits | None = None,
    constraints: PlanConstraints | None = None,
    least: str = "bytes",
    seq_len: int | None = None,
    batch_size: int = 1,
    metric: str = "directional",
    method: str = "gptq",
    calibration: CalibrationPlan | None = None,
    seed: int = 0,
    max_tokens: int | None = None,
    scores: ScoreTable | None = None,
    progress: Progress = silent,
) -> Optimized:
    """Score a model, plan it, write it, export it to an engine, measure it there, and compare it with uniform 8 bits.

    An interrupted run, started again, resumes from the scores and plans in `output`.

    Args:
        model: model folder, or a loaded model.
        data: text that the model was not trained on, divided into calibration, scoring and check texts; labels are
            needed for accuracy only.
        output: folder to create; must not exist, be empty, or be left by an interrupted run.
        budget: size of the encoder's matrices: `25MB`, `23.8MiB`, `2.5bit` or `13x`.
        total_budget: size of the whole stored model, in the same units.
        max_accuracy_drop: `0.5pt`: find the smallest (or fastest, see `least`) plan proven on held-out text to lose no
            more accuracy; without labels, to change no more answers.
        max_flips: `1%`: the same for changed answers.
        confidence: of these proofs.
        device: target hardware: a name, a YAML file or a loaded device. Its own limits apply too.
        engine: engine to plan for, to export to and to measure in, for example `onnxruntime`; None exports nothing.
        activations: how the engine rounds the inputs of products, as in `export_model`; by default in planned 8-bit
            ranges where it multiplies integers and a plan exists, else in its own way.
        test_data: held-out text for the check; by default the part of `data` not used for calibration and scoring.
        limits: further limits; `budget` and `total_budget` override its own.
        constraints: what the plan must satisfy besides the limits.
        least: what the proven plan minimizes: `bytes`, or the predicted `latency` on the device.
        seq_len: tokens per sentence, for latencies; by default 128, or the model's maximum if less.
        batch_size: sentences per inference.
        metric: estimator of the loss.
        method: quantizer for scoring; `quantization.writing.writing_method` determines the one that writes.
        calibration: sizes of the calibration set and of the scoring texts.
        seed: of every random draw, where `calibration` does not say.
        max_tokens: length at which texts are truncated, for a model folder; None is the model's maximum.
        scores: an existing table for this model and text; None computes one.
        progress: called with the current step.

    Returns:
        Plan, predicted cost, measured quality, and the comparison.

    Raises:
        InfeasibleError: no plan meets every limit, or is proven to.
        InputFileError: model, data or device cannot be read, do not match each other, or hold too little text.
        UsageError: no limit is given, or a name is unknown.
    """
    folder = OutputFolder(Path(output))
    folder.check()
    target = None if device is None else given_device(device)
    constraints = constraints or PlanConstraints()
    quality = parse_quality(max_accuracy_drop, max_flips, confidence)
    _check(engine, target, activations, constraints, quality)
    _check_least(least, target, quality)
    if quality and scores is None and LOSS_UNITS["classes"] != metric_named(metric).LOSS_UNIT:
        raise UsageError(f"`metric` {metric}: its scores are no KL, so they predict no flips. Use directional.")
    if engine is not None:
        constraints = constraints.model_copy(update={"engine": engine})
    limits = _sized(limits or Limits(), budget, total_budget, 1, 1)  # refuses wrong ones before the work
    unlimited = limits == Limits(inferences_per_s=limits.inferences_per_s) and constraints.max_loss is None
    if unlimited and target is None and not quality:
        raise UsageError("no limit given. Give `budget`, `max_flips`, `max_accuracy_drop` or `device`.")
    loaded = model if isinstance(model, LoadedModel) else load_model(model, max_tokens=max_tokens)
    if engine is not None:
        if loaded.head.kind == "next_tokens":
            raise UsageError(
                f"`engine` {engine}: {loaded.name} is a decoder, which optimize does not export. Use sensitivity, "
                "solve with `engine` llama-cpp, quantize and export."
            )
        check_convertible(engine, loaded, [matrix.module for matrix in profile_model(loaded).matrices])
    workload = _workload(loaded, seq_len, batch_size)
    for name in [n for n in ("flips", "accuracy_drop") if getattr(quality, n) is not None]:
        check_answers(loaded.head.kind, f"max_{name}")
    if quality.accuracy_drop is not None and not loaded.head.spec.classifies:
        raise UsageError(
            f"`max_accuracy_drop`: holds for classifiers of texts; {loaded.name} answers with {loaded.head.kind}. "
            "Give `max_flips`: a text flips if any of its answers changes."
        )
    texts = data if isinstance(data, LabeledTexts) else read_texts(data)
    held_out = test_data if isinstance(test_data, LabeledTexts) or test_data is None else read_texts(test_data)
    if scores is not None:
        origin = scores.provenance
        calibration = CalibrationPlan.of(origin)
    profile, forms, widths = profile_model(loaded), scored_forms(engine), scored_widths(engine, activations, metric)
    in_each_way = quality.shared_by(2) if widths and activations is None else quality  # as `compared` proves them
    split = split_texts(texts, held_out, calibration, in_each_way, seed)
    rules = None if engine is None else rules_of(engine)
    limits = _sized(limits, budget, total_budget, profile.encoder_elements, profile.float_bytes // 4)
    check_possible(
        scores or unscored_table(profile, method, metric, forms, widths, rules), limits, device=target,
        workload=workload, constraints=constraints,
        input_bits=(*(() if activations == "planned" else (None,)), *widths),
    )  # fmt: skip
    with TemporaryDirectory(prefix="qbert-opt-") as scratch:
        original = None
        if engine is not None:  # first, because an engine that cannot convert the model says so here
            progress(0, 1, "exporting the float model")
            original = export_float(loaded, engine, Path(scratch) / "float32")
        with folder.writing():
            table, reused = folder.scores(
                loaded, texts, split.plan, given=scores, metric=metric, method=method, forms=forms, rules=rules,
                activation_bits=widths, progress=progress,
            )  # fmt: skip
            request = Request(table, limits, target, workload, constraints, least)
            shipped, solved, outcome = compared(
                loaded, texts, split, request, activations, quality, folder, original, reused, progress
            )
    return Optimized(
        solved.plan, solved.report, shipped.measured, split.check.name, folder.path, shipped.exported, outcome
    )


def _check(
    engine: str | None,
    target: Device | None,
    activations: Activations | None,
    constraints: PlanConstraints,
    quality: QualityLimits,
) -> None:
    """Refuse incompatible options before any work.

    Raises:
        UsageError: an engine that is unknown, not installed or needs no export, unknown activations, or options that
            exclude each other.
    """
    check_activations(activations)
    if engine is not None:
        exporting_format(engine)
        if target is not None:
            check_engine(engine, target)
    elif activations is not None:
        raise UsageError("`activations`: is a setting of an engine. Give `engine`.")
    if quality and (constraints.max_loss is not None or constraints.least is not None):
        raise UsageError(
            "`max_loss` and `least`: the smallest plan under `max_flips` or `max_accuracy_drop` is sought."
        )
    planned_widths(engine, activations)


def _check_least(least: str, target: Device | None, quality: QualityLimits) -> None:
    """Refuse a goal that is unknown, cannot be priced, or has no limit on answers.

    Raises:
        UsageError: says which.
    """
    if least not in LEAST:
        raise UsageError(f"`least` {least}: legal: {', '.join(LEAST)}.")
    if least == "latency" and target is None:
        raise UsageError("`least` latency: needs `device`, which determines it.")
    if least != "bytes" and not quality:
        raise UsageError(
            f"`least` {least}: belongs to `max_flips` or `max_accuracy_drop`; without them the plan of least predicted "
            "loss within the limits is sought."
        )


def _workload(loaded: LoadedModel, seq_len: int | None, batch_size: int) -> Workload:
    """Return one inference that the model can run.

    Raises:
        UsageError: more tokens than it reads.
    """
    if seq_len is not None and seq_len > loaded.longest:
        raise UsageError(f"`seq_len` {seq_len}: {loaded.name} reads {loaded.longest} tokens at most.")
    return Workload(seq_len or min(Workload().seq_len, loaded.longest), batch_size)


def _sized(
    limits: Limits, budget: str | None, total_budget: str | None, encoder_elements: int, elements: int
) -> Limits:
    """Return limits with the budgets in bytes."""
    if budget is not None:
        limits = replace(limits, encoder_bytes=parse_budget(budget, encoder_elements, "`budget`"))
    if total_budget is not None:
        limits = replace(limits, total_bytes=parse_budget(total_budget, elements, "`total_budget`"))
    return limits
