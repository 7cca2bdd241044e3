"""The texts on which an export is checked: some of the plan's scoring texts, with torch's outputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from ..checkpoint.check_texts import CHECK_TEXTS, check_texts_of, read_check_texts
from ..data.sources import bundled_datasets
from ..data.texts import LabeledTexts, read_texts
from ..engines.agreement import Check, answer_rows
from ..errors import InputFileError, UsageError
from ..evaluation.evaluate import evaluation_batches
from ..formats.traced_model import TracedModel
from ..models.batches import joined
from ..models.loading import LoadedModel
from ..models.samples import TokenBatch
from ..models.sentence_embeddings import embedding_of
from ..quantization.calibration import CalibrationPlan, calibration_texts
from ..spec.allocation import Allocation
from .quantize import READ_BACK_TEXTS, as_scored

MOST_ANSWERS = 1 << 26  # numbers in all checks: a decoder outputs its whole vocabulary for each token
KEPT_ANSWERS = 1 << 22  # numbers in the checks that are recomputed when an exported folder is opened
ALONE = 16  # texts that are run one by one; the others run in padded batches of this size


def check_samples(
    folder: Path, loaded: LoadedModel, allocation: Allocation, texts: LabeledTexts | None
) -> tuple[str, list[TokenBatch]]:
    """Return the samples on which an export is checked, without padding, and the name of their data set.

    Args:
        folder: the quantized folder.
        loaded: the model in it.
        allocation: the plan in it.
        texts: source of the samples; None takes those that `quantize` left in the folder.

    Raises:
        InputFileError: the folder's texts are malformed, or no texts of this model.
        UsageError: the folder holds none.
    """
    if texts is None:
        kept = read_check_texts(folder)
        if kept is not None:
            _check_ids(folder, kept.inputs.get("input_ids", ()), loaded)
            return kept.data, kept.samples()
        texts = _of_the_plan(folder, loaded, allocation)
    origin = allocation.provenance
    if origin.num_scored and texts.sha256 == origin.data_sha256:
        _, texts = calibration_texts(texts, CalibrationPlan.of(origin))
    few = texts.take(range(min(READ_BACK_TEXTS, len(texts))))
    return texts.name, check_texts_of(evaluation_batches(as_scored(loaded, allocation), few), texts.name).samples()


def _of_the_plan(folder: Path, loaded: LoadedModel, allocation: Allocation) -> LabeledTexts:
    """The plan's texts if they are bundled; bundled ones for a plan that no text was scored for."""
    origin = allocation.provenance
    if not origin.data_sha256 and not loaded.head.spec.reads_pairs:
        return read_texts("snips/dev")
    if origin.data in bundled_datasets() and (texts := read_texts(origin.data)).sha256 == origin.data_sha256:
        return texts
    raise UsageError(
        f"{folder}: holds no {CHECK_TEXTS}, which earlier releases did not write. Give `texts`, those that the plan "
        f"was scored on ({origin.data}), or quantize the model again."
    )


def _check_ids(folder: Path, samples: Iterable[Sequence[int]], loaded: LoadedModel) -> None:
    words = int(loaded.model.get_input_embeddings().num_embeddings)
    for sample in samples:
        if max(sample) >= words or len(sample) > loaded.longest:
            raise InputFileError(
                f"{folder / CHECK_TEXTS}: has a text of {len(sample)} tokens with ids up to {max(sample)}; the model "
                f"reads {loaded.longest} tokens of {words}. Quantize the model again."
            )


def within_memory(samples: Sequence[TokenBatch], columns: int) -> list[TokenBatch]:
    """Return as many of the first samples, at least one, as have at most `MOST_ANSWERS` numbers in their outputs.

    Args:
        samples: without padding.
        columns: of an output.
    """
    kept: list[TokenBatch] = []
    count = 0
    for sample in samples:
        count += columns * (1 if sample.positions is None else int(sample.labelled.sum()))
        if kept and count > MOST_ANSWERS:
            break
        kept.append(sample)
    return kept


def repeated(checks: Sequence[Check]) -> list[Check]:
    """Return as many of the first checks, at least one, as have at most `KEPT_ANSWERS` numbers.

    Args:
        checks: texts with torch's outputs.
    """
    sizes = np.cumsum([check.answers.size for check in checks])
    return list(checks[: max(1, int((sizes <= KEPT_ANSWERS).sum()))])


def in_batches(samples: Sequence[TokenBatch]) -> list[TokenBatch]:
    """Return the first `ALONE` samples unpadded and the others in padded batches of that size: both must work.

    Args:
        samples: batches of one sample each; with `ALONE` samples or fewer, all of them are joined in one batch too.
    """
    rest = samples[ALONE:]
    together = [joined(rest[start : start + ALONE]) for start in range(0, len(rest), ALONE)]
    return [*samples[:ALONE], *(together or [joined(samples)])]


def longest_sample(samples: Sequence[TokenBatch], tokens: int) -> TokenBatch:
    """Return one sample of maximum length, made of the samples' tokens: every position must work.

    Args:
        samples: batches of one sample each.
        tokens: its length.
    """
    repeats = -(-tokens // sum(sample.mask.shape[1] for sample in samples))
    row = [*samples] * repeats
    inputs = {name: torch.cat([sample.inputs[name] for sample in row], 1)[:, :tokens] for name in samples[0].inputs}
    where = None if samples[0].positions is None else torch.cat([sample.labelled for sample in row], 1)[:, :tokens]
    return TokenBatch(inputs, (0,), where)


@torch.no_grad()
def checks_of(loaded: LoadedModel, traced: TracedModel, batches: Sequence[TokenBatch]) -> list[Check]:
    """Return texts with torch's outputs.

    Args:
        loaded: the model.
        traced: the same model in the form that converters take.
        batches: the texts.
    """
    kind = loaded.head.kind
    checks = []
    for batch in batches:
        positions = _weights(loaded, batch) if kind == "embeddings" else batch.positions
        where = None if positions is None else positions.numpy()
        answers = traced.module(*(batch.inputs[name] for name in traced.inputs))
        outputs = {name: answer.numpy() for name, answer in zip(traced.outputs, answers, strict=True)}
        inputs = {name: np.asarray(batch.inputs[name]) for name in traced.inputs}
        checks.append(Check(inputs, np.array(answer_rows(kind, outputs, where)), where))
    return checks


def _weights(loaded: LoadedModel, batch: TokenBatch) -> torch.Tensor:
    """Weights with which an embedding sums the states of its tokens; with several poolings, those of the mean."""
    embedding = embedding_of(loaded.model.config)
    if embedding is not None and embedding.modes == ("cls",):
        first = torch.zeros(batch.mask.shape)
        first[torch.arange(len(first)), batch.mask.to(torch.int8).argmax(1)] = 1
        return first
    return batch.mask / batch.mask.sum(1, keepdim=True)
