"""Quantize a model according to a plan, with the same calibration as the scores, and write the folder."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..checkpoint.check_texts import CheckTexts, check_texts_of
from ..checkpoint.packed_modules import quantized_parts
from ..checkpoint.record import ReadBack, as_planned
from ..checkpoint.writer import write_checkpoint
from ..checkpoint.written import WrittenModel
from ..data.sources import bundled_datasets
from ..data.texts import LabeledTexts, read_texts
from ..errors import InputFileError, QbertOptError, UsageError
from ..evaluation.evaluate import evaluate, evaluation_batches, outputs
from ..models.loading import LoadedModel
from ..models.outputs import rows_per_sample
from ..models.paging import pages_of
from ..models.probe import known_words
from ..models.windows import EARLIER_MAX_TOKENS
from ..quantization.calibration import CalibrationPlan, MatrixQuantizer, calibration_texts, quantized_matrices
from ..quantization.quantizer import quantizer
from ..quantization.sequential import sequential_matrices
from ..quantization.storable import check_storable
from ..quantization.writing import checked_method, writing_method
from ..runtime.files import check_free
from ..runtime.progress import Progress, silent
from ..spec.allocation import Allocation
from .rescore import rescored

logger = logging.getLogger(__name__)
READ_BACK_TEXTS = 64


def quantize_model(
    loaded: LoadedModel,
    allocation: Allocation,
    data: LabeledTexts | None,
    output: str | Path,
    *,
    method: str | None = None,
    sequential: bool = False,
    progress: Progress = silent,
) -> WrittenModel:
    """Quantize a model according to its plan, write the folder, load it and run a few texts through it.

    Args:
        loaded: the model that the plan belongs to; layers and heads that the plan drops are left out.
        allocation: the plan.
        data: the data set that was scored; the plan records its hash, sample counts and seed.
        output: folder to write.
        method: quantizer that writes the codes; None is `quantization.writing.writing_method`'s, with `sequential` the
            plan's own.
        sequential: calibrate each block on inputs that contain the quantization errors of the preceding blocks; the
            plan in the folder then has the losses scored again.
        progress: called with matrices done, number of matrices, and the current step.

    Returns:
        The written folder with its size.

    Raises:
        InputFileError: the model or data set is not the plan's, or a weight exceeds the range of fp16.
        UsageError: the quantizer needs data and there is none, or does not store the plan's forms, or does not benefit
            from `sequential`, or the model is paged and cannot be quantized so.
    """
    check_free(Path(output))
    original = as_scored(loaded, allocation)
    loaded = as_planned(allocation, original)
    if pages_of(original.model) is not None and pages_of(loaded.model) is None:
        what = "layers" if allocation.dropped_heads is None else "attention heads"
        logger.warning("warning: %s: the plan drops %s; what is left is quantized in memory", loaded.name, what)
    if sequential and pages_of(loaded.model) is not None:
        raise UsageError("`sequential`: changes the weights block by block, and those of a paged model are read-only.")
    if method is None:
        method = allocation.method if sequential else writing_method(allocation)
    checked_method(allocation, method)
    check_storable(loaded.model, {part.module: [part.layout] for part in quantized_parts(allocation)})
    texts = read_back_texts(loaded, allocation, data)

    def answer(opened: LoadedModel) -> ReadBack | None:
        return None if texts is None else read_back(original, opened, texts)

    if sequential:
        fit, scored = plan_texts(loaded, allocation, data)
        in_sequence = sequential_matrices(loaded, allocation, fit, progress, method=method)
        again = rescored(loaded, allocation, dict(in_sequence), scored, progress)
        return write_checkpoint(
            loaded, again, in_sequence, output, written_by=method, answer=answer, check_texts=kept_texts(loaded, texts),
            progress=progress,
        )  # fmt: skip
    matrices = quantized_matrices(plan_quantizer(loaded, allocation, data, method), allocation)
    return write_checkpoint(
        loaded, allocation, matrices, output, written_by=method, answer=answer, check_texts=kept_texts(loaded, texts),
        progress=progress,
    )  # fmt: skip


def kept_texts(loaded: LoadedModel, texts: LabeledTexts | None) -> CheckTexts | None:
    """Return texts as a quantized folder keeps them for export checks.

    Args:
        loaded: the model, for its tokenizer.
        texts: to keep; None keeps none.

    Returns:
        None without texts, and for the samples of a plain module, which are no texts.
    """
    if texts is None or loaded.given_head is not None:
        return None
    return check_texts_of(evaluation_batches(loaded, texts), texts.name)


def read_back_texts(loaded: LoadedModel, allocation: Allocation, data: LabeledTexts | None) -> LabeledTexts | None:
    """Return the texts on which a written folder is run: some of the scoring texts, or bundled ones if there are none.

    Without data, the plan's own text is read from the path in the plan. A model whose vocabulary lacks the words of
    the bundled texts gets words of its own. None for a plain module without data, which reads no texts.

    Args:
        loaded: the float model.
        allocation: the plan.
        data: the text of its scores, other text, or None.
    """
    if data is None and loaded.given_head is None:
        data = plan_data(allocation)
    if data is not None and data.sha256 == allocation.provenance.data_sha256:
        _, scored = plan_texts(loaded, allocation, data)
        return _first(scored)
    if data is None and loaded.given_head is not None:
        return None
    texts = _first(read_texts("snips/dev") if data is None else data)
    if loaded.head.spec.reads_pairs and data is None:
        return LabeledTexts(texts.name, tuple((text[0], text[0]) for text in texts.texts), None)
    if data is None and not rows_per_sample(loaded.head.kind, evaluation_batches(loaded, texts)):
        return LabeledTexts("words of its vocabulary", ((" ".join(known_words(loaded.tokenizer)),),), None)
    return texts


def plan_data(allocation: Allocation) -> LabeledTexts | None:
    """Return the text that a plan was scored on, read from the path in the plan.

    Args:
        allocation: the plan.

    Returns:
        The text; None if it cannot be read without further options, or has changed.
    """
    origin, path = allocation.provenance, Path(allocation.provenance.data)
    try:
        if origin.data not in bundled_datasets() and not (path.is_file() or path.is_dir()):
            return None  # a pipe or a device could be read without end
        texts = read_texts(path)
    except (QbertOptError, OSError):
        return None
    return texts if texts.sha256 == origin.data_sha256 else None


def read_back(loaded: LoadedModel, opened: LoadedModel, texts: LabeledTexts) -> ReadBack:
    """Run a model loaded from its folder, and measure its loss relative to the float model.

    Args:
        loaded: the float model.
        opened: the quantized model.
        texts: to run.

    Raises:
        InputFileError: its outputs are NaN or infinite.
    """
    loss = evaluate(replace(opened, max_tokens=loaded.max_tokens), texts, outputs(loaded, texts)).loss
    if loss is None or not np.isfinite(loss.value):
        raise InputFileError(
            f"{loaded.name}: the outputs of the quantized model are NaN or infinite; nothing was written."
        )
    return ReadBack(data=texts.name, num_texts=len(texts), loss=loss.value, loss_unit=loaded.head.loss_unit)


def _first(texts: LabeledTexts) -> LabeledTexts:
    few = texts.take(range(min(READ_BACK_TEXTS, len(texts))))
    return LabeledTexts(few.name, few.texts, None)


def plan_quantizer(
    loaded: LoadedModel, allocation: Allocation, data: LabeledTexts | None, method: str | None = None
) -> MatrixQuantizer:
    """Return a quantizer with the calibration set of the plan's scores.

    Args:
        loaded: the model that the plan belongs to.
        allocation: the plan.
        data: the data set that was scored.
        method: name of the quantizer; None is that of the scores.

    Raises:
        InputFileError: the model or data set is not the plan's.
        UsageError: the quantizer needs data and there is none.
    """
    loaded = as_planned(allocation, as_scored(loaded, allocation))
    method = method or allocation.method
    fit = plan_texts(loaded, allocation, data)[0] if quantizer(method).NEEDS_GRAM else None
    return MatrixQuantizer(loaded, allocation.profile, method, fit)


def writing_quantizer(loaded: LoadedModel, allocation: Allocation, data: LabeledTexts | None) -> MatrixQuantizer:
    """Return the quantizer that writes a plan's folder by default, with the calibration set of the plan's scores.

    Args:
        loaded: the model that the plan belongs to.
        allocation: the plan.
        data: the data set that was scored.

    Raises:
        InputFileError: the model or data set is not the plan's.
        UsageError: the quantizer needs data and there is none.
    """
    return plan_quantizer(loaded, allocation, data, writing_method(allocation))


def as_scored(loaded: LoadedModel, allocation: Allocation) -> LoadedModel:
    """Return a model that truncates texts at the same length as when the plan's scores were computed.

    Plans of earlier releases do not record it; they used 128 tokens, or 384 for span extraction.

    Args:
        loaded: a model.
        allocation: a plan of it.
    """
    default = loaded.head.spec.default_tokens or EARLIER_MAX_TOKENS
    return replace(loaded, max_tokens=allocation.provenance.max_tokens or default)


def plan_texts(
    loaded: LoadedModel, allocation: Allocation, data: LabeledTexts | None
) -> tuple[LabeledTexts, LabeledTexts]:
    """Return the calibration set and the scoring texts of the plan's scores.

    Args:
        loaded: the model that the plan belongs to.
        allocation: the plan.
        data: the data set that was scored.

    Raises:
        InputFileError: the model or data set is not the plan's.
        UsageError: there is no data.
    """
    as_planned(allocation, loaded)
    if data is None:
        raise UsageError(f"quantize: method {allocation.method} needs `data`, the text the scores were made with.")
    origin = allocation.provenance
    if data.sha256 != origin.data_sha256:
        raise InputFileError(
            f"{data.name}: is not the data the scores were made with ({origin.data}, sha256 "
            f"{origin.data_sha256[:12]}…; here {data.sha256[:12]}…). Give that data, or score again with this one."
        )
    return calibration_texts(data, CalibrationPlan.of(origin))
