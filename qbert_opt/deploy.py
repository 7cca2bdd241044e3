"""Plan and model to the quantized folder, with the very calibration that the scores were made with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from . import registry
from .allocation import Allocation
from .calibration import CalibrationPlan, MatrixQuantizer, calibration_texts
from .errors import InputFileError, UsageError
from .models.loading import LoadedModel
from .packing.artifact import WrittenModel, check_belongs, write_quantized
from .texts import LabeledTexts


def quantize_model(
    loaded: LoadedModel,
    allocation: Allocation,
    data: LabeledTexts | None,
    output: str | Path,
    *,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> WrittenModel:
    """Quantize a model by its plan and write the folder.

    Args:
        loaded: the model that the plan was made for.
        allocation: the plan.
        data: the data set that the scores were made with; the plan knows its hash, sizes and seed.
        output: folder to write.
        progress: called with matrices done, matrices in all, and what goes on.

    Raises:
        InputFileError: another model or another data set than the plan's.
        UsageError: the method needs data and there is none.
    """
    quantizer = plan_quantizer(loaded, allocation, data)
    return write_quantized(loaded, allocation, quantizer, output, progress=progress)


def plan_quantizer(loaded: LoadedModel, allocation: Allocation, data: LabeledTexts | None) -> MatrixQuantizer:
    """Set up the very quantizer that the plan's scores were made with.

    Raises:
        InputFileError: another model or another data set than the plan's.
        UsageError: the method needs data and there is none.
    """
    check_belongs(allocation, loaded)
    fit = None
    if registry.load("quantizers", allocation.method).NEEDS_GRAM:
        if data is None:
            raise UsageError(f"quantize: method {allocation.method} needs --data, the text the scores were made with.")
        made = allocation.provenance
        if data.sha256 != made.data_sha256:
            raise InputFileError(
                f"{data.name}: is not the data the scores were made with ({made.data}, sha256 "
                f"{made.data_sha256[:12]}…; here {data.sha256[:12]}…). Give that data, or score again with this one."
            )
        fit, _ = calibration_texts(data, CalibrationPlan(made.num_calibration, made.num_scored, made.seed))
    return MatrixQuantizer(loaded, allocation.profile, allocation.method, fit)
