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
from .sequential import SequentialQuantizer, rescored
from .texts import LabeledTexts


def quantize_model(
    loaded: LoadedModel,
    allocation: Allocation,
    data: LabeledTexts | None,
    output: str | Path,
    *,
    sequential: bool = False,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> WrittenModel:
    """Quantize a model by its plan and write the folder.

    Args:
        loaded: the model that the plan was made for.
        allocation: the plan.
        data: the data set that the scores were made with; the plan knows its hash, sizes and seed.
        output: folder to write.
        sequential: quantize block after block, each on inputs that carry the errors of those before; the plan in the
            folder then holds the losses scored again.
        progress: called with matrices done, matrices in all, and what goes on.

    Raises:
        InputFileError: another model or another data set than the plan's.
        UsageError: the method needs data and there is none, or nothing is gained in sequence.
    """
    if sequential:
        fit, scored = plan_texts(loaded, allocation, data)
        in_sequence = SequentialQuantizer(loaded, allocation, fit, progress)
        again = rescored(loaded, allocation, in_sequence, scored, progress)
        return write_quantized(loaded, again, in_sequence, output, progress=progress)
    quantizer = plan_quantizer(loaded, allocation, data)
    return write_quantized(loaded, allocation, quantizer, output, progress=progress)


def plan_quantizer(loaded: LoadedModel, allocation: Allocation, data: LabeledTexts | None) -> MatrixQuantizer:
    """Set up the very quantizer that the plan's scores were made with.

    Raises:
        InputFileError: another model or another data set than the plan's.
        UsageError: the method needs data and there is none.
    """
    if not registry.load("quantizers", allocation.method).NEEDS_GRAM:
        check_belongs(allocation, loaded)
        return MatrixQuantizer(loaded, allocation.profile, allocation.method, None)
    fit, _ = plan_texts(loaded, allocation, data)
    return MatrixQuantizer(loaded, allocation.profile, allocation.method, fit)


def plan_texts(
    loaded: LoadedModel, allocation: Allocation, data: LabeledTexts | None
) -> tuple[LabeledTexts, LabeledTexts]:
    """Draw the texts that fitted and those that scored when the plan's scores were made.

    Raises:
        InputFileError: another model or another data set than the plan's.
        UsageError: there is no data.
    """
    check_belongs(allocation, loaded)
    if data is None:
        raise UsageError(f"quantize: method {allocation.method} needs --data, the text the scores were made with.")
    made = allocation.provenance
    if data.sha256 != made.data_sha256:
        raise InputFileError(
            f"{data.name}: is not the data the scores were made with ({made.data}, sha256 "
            f"{made.data_sha256[:12]}…; here {data.sha256[:12]}…). Give that data, or score again with this one."
        )
    return calibration_texts(data, CalibrationPlan(made.num_calibration, made.num_scored, made.seed))
