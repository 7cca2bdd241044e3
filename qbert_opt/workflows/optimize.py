"""The whole path in one call: score, plan, quantize, measure, and export to an engine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoint.reader import load_quantized
from ..costs.devices import load_device
from ..costs.operations import Workload
from ..data.texts import LabeledTexts, read_texts
from ..engines.record import EngineRecord
from ..engines.session import Activations, exporting_format
from ..evaluation.evaluate import Evaluation, evaluate, outputs
from ..models.loading import LoadedModel, load_model
from ..planning.budgets import parse_budget
from ..planning.constraints import PlanConstraints
from ..quantization.calibration import CalibrationPlan
from ..runtime.files import check_free
from ..runtime.progress import Progress, silent
from ..spec.allocation import Allocation, write_allocation
from ..spec.limits import Limits
from ..spec.scores import ScoreTable, write_scores
from .export import export_model
from .quantize import plan_texts, quantize_model
from .score import score_model
from .solve import check_limits, solve_plans

if TYPE_CHECKING:
    from hwmodels import CostReport, Device

SCORES, PLAN, QUANTIZED = "scores.json", "allocation.json", "quantized"


@dataclass(frozen=True, slots=True)
class Optimized:
    """A quantized model with its plan, predicted cost and measured quality.

    Attributes:
        plan: the plan, with its proof and predicted loss.
        predicted: cost on the device; None without a device.
        measured: quality of the quantized model, and its loss relative to the float model, on `measured_on`.
        measured_on: name of the text.
        folder: contains `scores.json`, `allocation.json`, `quantized/`, and `ENGINE/` if exported.
        exported: record of the export; None if nothing was exported.
    """

    plan: Allocation
    predicted: CostReport | None
    measured: Evaluation
    measured_on: str
    folder: Path
    exported: EngineRecord | None

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
    device: str | Device | None = None,
    engine: str | None = None,
    activations: Activations | None = None,
    test_data: str | Path | LabeledTexts | None = None,
    limits: Limits | None = None,
    constraints: PlanConstraints | None = None,
    workload: Workload | None = None,
    metric: str = "directional",
    method: str = "gptq",
    calibration: CalibrationPlan | None = None,
    scores: ScoreTable | None = None,
    progress: Progress = silent,
) -> Optimized:
    """Score a model, solve for a plan, write and measure the quantized model, and export it if an engine is given.

    Args:
        model: model folder, or a loaded model.
        data: calibration text that the model was not trained on; labels are not needed.
        output: folder to create; must not exist, or be empty.
        budget: size of the encoder's matrices: `25MB`, `23.8MiB`, `2.5bit` or `13x`.
        device: target hardware: a name, a YAML file or a loaded device. Its own limits apply too.
        engine: engine to plan for and to export to, for example `onnxruntime`; None exports nothing.
        activations: how the engine rounds the inputs of products, as in `export_model`.
        test_data: held-out text to measure on; by default the scoring texts, which the plan was chosen on.
        limits: further limits; `budget` overrides its `encoder_bytes`.
        constraints: what the plan must satisfy besides the limits.
        workload: sentences and tokens of one inference.
        metric: estimator of the loss.
        method: quantizer.
        calibration: sizes of the calibration set and of the scoring texts.
        scores: an existing table for this model and text; None computes one.
        progress: called with the current step.

    Returns:
        Plan, predicted cost and measured quality.

    Raises:
        InfeasibleError: no plan meets every limit.
        InputFileError: model, data or device cannot be read, or do not match each other.
        UsageError: no limit is given, or a name is unknown.
    """
    folder = Path(output)
    check_free(folder)
    target = load_device(device) if isinstance(device, str) else device
    constraints = constraints or PlanConstraints()
    if engine is not None:
        exporting_format(engine)  # an engine that cannot be exported to is refused before the work
        constraints = constraints.model_copy(update={"engine": engine})
    limits = limits or Limits()
    if budget is not None:
        limits = replace(limits, encoder_bytes=parse_budget(budget, 1, "`budget`"))  # likewise; sized below
    check_limits(limits, target, constraints)
    loaded = model if isinstance(model, LoadedModel) else load_model(model)
    texts = data if isinstance(data, LabeledTexts) else read_texts(data)
    table = scores or score_model(
        loaded, texts, metric=metric, method=method, calibration=calibration, progress=progress
    )
    if budget is not None:
        limits = replace(limits, encoder_bytes=parse_budget(budget, table.profile.encoder_elements, "`budget`"))
    solved = solve_plans(table, limits, device=target, workload=workload, constraints=constraints)
    folder.mkdir(exist_ok=True)
    write_scores(table, folder / SCORES)
    write_allocation(solved.plan, folder / PLAN)
    quantize_model(loaded, solved.plan, texts, folder / QUANTIZED, progress=progress)
    if test_data is None:
        scored = plan_texts(loaded, solved.plan, texts)[1]
        measured_on = replace(scored, name=f"the scoring texts of {scored.name}")
    else:
        measured_on = test_data if isinstance(test_data, LabeledTexts) else read_texts(test_data)
    reopened, _ = load_quantized(folder / QUANTIZED)
    measured = evaluate(reopened, measured_on, outputs(loaded, measured_on))
    exported = None
    if engine is not None:
        exported = export_model(
            folder / QUANTIZED, engine, folder / engine, texts=measured_on, activations=activations, progress=progress
        )
    return Optimized(solved.plan, solved.report, measured, measured_on.name, folder, exported)
