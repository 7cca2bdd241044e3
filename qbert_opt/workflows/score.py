"""Score a model folder on calibration text, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..data.texts import LabeledTexts, read_texts
from ..models.loading import LoadedModel, load_model
from ..quantization.calibration import CalibrationPlan, method_grid
from ..runtime.progress import Progress, silent
from ..scoring.sensitivity import measure_sensitivity
from ..spec.activations import activation_grid
from ..spec.choices import Choice
from ..spec.forms import Form
from ..spec.scores import ScoreTable
from ..spec.tables import table_grid


def score_model(
    model: str | Path | LoadedModel,
    data: str | Path | LabeledTexts,
    *,
    metric: str = "directional",
    method: str = "gptq",
    calibration: CalibrationPlan | None = None,
    forms: Sequence[Form] | None = None,
    activation_bits: Sequence[int] = (),
    with_tables: bool = True,
    choices: Sequence[Choice] | None = None,
    budget_bytes: int | None = None,
    max_tokens: int | None = None,
    checkpoint: str | Path | None = None,
    progress: Progress = silent,
) -> ScoreTable:
    """Score every choice of every matrix and embedding table on the default grid of a quantizer.

    Args:
        model: model folder, or a loaded model.
        data: calibration text that the model was not trained on.
        metric: estimator of the loss, a file in `scoring/metrics`.
        method: quantizer whose errors are scored, a file in `quantization/methods`.
        calibration: sizes of the calibration set and of the scoring texts; by default 256 each.
        forms: what a range stores, of matrices and tables; None takes the quantizer's usual form.
        activation_bits: widths of rounded inputs to score too: 4, 8, 16.
        with_tables: whether embedding tables are scored; otherwise they keep 8 bits.
        choices: choices of matrices to score, of this quantizer; by default its default grid.
        budget_bytes: of the encoder's matrices, at which metric `differentiable` learns.
        max_tokens: length at which texts are truncated, for a model folder; None is the model's maximum.
        checkpoint: progress file, from which an interrupted run resumes.
        progress: called with the matrix that is being scored.

    Returns:
        One score for each matrix and choice, in the table's `loss_unit`.

    Raises:
        InputFileError: model or data cannot be read, or do not match each other.
        UsageError: unknown metric or method, or too little text.
    """
    return measure_sensitivity(
        model if isinstance(model, LoadedModel) else load_model(model, max_tokens=max_tokens),
        data if isinstance(data, LabeledTexts) else read_texts(data),
        method_grid(method, forms=forms) if choices is None else choices,
        metric=metric,
        plan=calibration or CalibrationPlan(256, 256, 0),
        table_choices=table_grid(forms=forms or ("offset",)) if with_tables else (),
        activation_choices=activation_grid(activation_bits),
        budget_bytes=budget_bytes,
        checkpoint=checkpoint,
        progress=progress,
    )
