"""Plan and model to the quantized folder, with the very calibration that the scores were made with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ..checkpoint.packed_modules import quantized_parts
from ..checkpoint.record import ReadBack, check_belongs
from ..checkpoint.writer import write_checkpoint
from ..checkpoint.written import WrittenModel
from ..data.texts import LabeledTexts, read_texts
from ..errors import InputFileError, UsageError
from ..evaluation.evaluate import evaluate, outputs
from ..models.loading import LoadedModel
from ..models.windows import EARLIER_MAX_TOKENS
from ..quantization.calibration import CalibrationPlan, MatrixQuantizer, calibration_texts, quantized_matrices
from ..quantization.quantizer import quantizer
from ..quantization.sequential import sequential_matrices
from ..quantization.storable import check_storable
from ..runtime.files import check_free
from ..runtime.progress import Progress, silent
from ..spec.allocation import Allocation
from .rescore import rescored

READ_BACK_TEXTS = 32


def quantize_model(
    loaded: LoadedModel,
    allocation: Allocation,
    data: LabeledTexts | None,
    output: str | Path,
    *,
    sequential: bool = False,
    progress: Progress = silent,
) -> WrittenModel:
    """Quantize a model by its plan, write the folder, open it again and run a few texts through it.

    Args:
        loaded: the model that the plan was made for.
        allocation: the plan.
        data: the data set that the scores were made with; the plan knows its hash, sizes and seed.
        output: folder to write.
        sequential: quantize block after block, each on inputs that carry the errors of those before; the plan in the
            folder then holds the losses scored again.
        progress: called with matrices done, matrices in all, and what goes on.

    Raises:
        InputFileError: another model or another data set than the plan's, or a weight that fp16 cannot hold.
        UsageError: the method needs data and there is none, or nothing is gained in sequence.
    """
    check_free(Path(output))
    check_belongs(allocation, loaded)
    check_storable(loaded.model, {part.module: [part.layout] for part in quantized_parts(allocation)})
    loaded = as_scored(loaded, allocation)
    texts = read_back_texts(loaded, allocation, data)

    def answer(opened: LoadedModel) -> ReadBack | None:
        return None if texts is None else read_back(loaded, opened, texts)

    if sequential:
        fit, scored = plan_texts(loaded, allocation, data)
        in_sequence = sequential_matrices(loaded, allocation, fit, progress)
        again = rescored(loaded, allocation, dict(in_sequence), scored, progress)
        return write_checkpoint(loaded, again, in_sequence, output, answer=answer, progress=progress)
    matrices = quantized_matrices(plan_quantizer(loaded, allocation, data), allocation)
    return write_checkpoint(loaded, allocation, matrices, output, answer=answer, progress=progress)


def read_back_texts(loaded: LoadedModel, allocation: Allocation, data: LabeledTexts | None) -> LabeledTexts | None:
    """Draw the texts that a written folder is run on: of those that scored, or bundled ones where there is no data.

    None for a plain module without data: it reads no texts.
    """
    if data is not None and data.sha256 == allocation.provenance.data_sha256:
        _, scored = plan_texts(loaded, allocation, data)
        return _first(scored)
    if data is None and loaded.given_head is not None:
        return None
    texts = _first(read_texts("snips/dev") if data is None else data)
    if loaded.head.spec.reads_pairs and data is None:
        return LabeledTexts(texts.name, tuple((text[0], text[0]) for text in texts.texts), None)
    return texts


def read_back(loaded: LoadedModel, opened: LoadedModel, texts: LabeledTexts) -> ReadBack:
    """Run a model that was opened from its folder, and measure its loss against the one that it was made from.

    Raises:
        InputFileError: it answers with NaN or infinite values.
    """
    loss = evaluate(replace(opened, max_tokens=loaded.max_tokens), texts, outputs(loaded, texts)).loss
    if loss is None or not np.isfinite(loss.value):
        raise InputFileError(f"{loaded.name}: the quantized model answers with NaN or infinite values; not written.")
    return ReadBack(data=texts.name, num_texts=len(texts), loss=loss.value, loss_unit=loaded.head.loss_unit)


def _first(texts: LabeledTexts) -> LabeledTexts:
    few = texts.take(range(min(READ_BACK_TEXTS, len(texts))))
    return LabeledTexts(few.name, few.texts, None)


def plan_quantizer(loaded: LoadedModel, allocation: Allocation, data: LabeledTexts | None) -> MatrixQuantizer:
    """Set up the very quantizer that the plan's scores were made with.

    Raises:
        InputFileError: another model or another data set than the plan's.
        UsageError: the method needs data and there is none.
    """
    loaded = as_scored(loaded, allocation)
    if not quantizer(allocation.method).NEEDS_GRAM:
        check_belongs(allocation, loaded)
        return MatrixQuantizer(loaded, allocation.profile, allocation.method, None)
    fit, _ = plan_texts(loaded, allocation, data)
    return MatrixQuantizer(loaded, allocation.profile, allocation.method, fit)


def as_scored(loaded: LoadedModel, allocation: Allocation) -> LoadedModel:
    """Return a model that cuts texts where they were cut when the plan's scores were made.

    Plans of earlier releases do not say where; they were made with 128 tokens, or 384 of a text that is searched.
    """
    default = loaded.head.spec.default_tokens or EARLIER_MAX_TOKENS
    return replace(loaded, max_tokens=allocation.provenance.max_tokens or default)


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
        raise UsageError(f"quantize: method {allocation.method} needs `data`, the text the scores were made with.")
    made = allocation.provenance
    if data.sha256 != made.data_sha256:
        raise InputFileError(
            f"{data.name}: is not the data the scores were made with ({made.data}, sha256 "
            f"{made.data_sha256[:12]}…; here {data.sha256[:12]}…). Give that data, or score again with this one."
        )
    return calibration_texts(data, CalibrationPlan(made.num_calibration, made.num_scored, made.seed))
