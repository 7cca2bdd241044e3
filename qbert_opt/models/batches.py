"""Tokenize texts into batches, sorted by length to limit padding; indices restore the order."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from .heads import KINDS
from .heads.protocol import Sample, TextReader
from .samples import OutputKind, TokenBatch
from .windows import longest_sample

__all__ = [
    "TokenBatch",
    "apart",
    "joined",
    "logits",
    "mean_tokens",
    "num_cut",
    "num_lost",
    "num_windows",
    "run",
    "single_samples",
    "tokenize",
]  # fmt: skip

USUAL_TOKENS = 384  # longer samples form smaller batches, so that no batch has more tokens than one of this length


def tokenize(
    tokenizer: Any,
    texts: Sequence[tuple[str, ...]],
    *,
    batch_size: int,
    max_tokens: int | None = None,
    kind: OutputKind = "classes",
) -> list[TokenBatch]:
    """Tokenize texts into batches of similar length, shortest first.

    Longer texts are truncated, and batches record how much was lost. For spans and next tokens a long text is split
    into windows, and each window is a separate sample.

    Args:
        tokenizer: the model's tokenizer; its `model_max_length` is the model's window.
        texts: one tuple of one or two strings per sample; for spans a question and its context, for tags one
            string of words separated by blanks.
        batch_size: samples per batch; fewer if they are longer than 384 tokens.
        max_tokens: length at which samples are truncated; by default the model's window, for spans at most 384
            and for next tokens at most 512.
        kind: kind of the model's outputs; determines which positions have labels.

    Raises:
        InputFileError: a text does not suit the kind of outputs.
    """
    spec = KINDS[kind]
    if hasattr(tokenizer, "batches"):  # ready samples of a plain module
        return list(tokenizer.batches(texts, batch_size, positions=spec.positions))
    reader = TextReader("", tokenizer, longest_sample(tokenizer, spec.default_tokens, max_tokens))
    samples: list[Sample] = []
    owners: list[int] = []
    for index, text in enumerate(texts):
        pieces = spec.samples(reader, text, index)
        samples += pieces
        owners += [index] * len(pieces)
    order = sorted(range(len(samples)), key=lambda i: (_length(samples[i]), i))
    in_windows = len(samples) > len(texts)
    batches = []
    for chunk in _chunks(order, [_length(sample) for sample in samples], batch_size):
        batch = _padded_batch(tokenizer, [samples[i] for i in chunk], tuple(chunk))
        batches.append(replace(batch, texts=tuple(owners[i] for i in chunk)) if in_windows else batch)
    return batches


def num_cut(batches: Sequence[TokenBatch]) -> int:
    """Return the number of truncated samples.

    Args:
        batches: of tokenized texts.
    """
    return sum(lost > 0 for batch in batches for lost in batch.lost)


def num_lost(batches: Sequence[TokenBatch]) -> int:
    """Return the total amount of text lost by truncation: words for tags, tokens otherwise.

    Args:
        batches: of tokenized texts.
    """
    return sum(lost for batch in batches for lost in batch.lost)


def num_windows(batches: Sequence[TokenBatch]) -> int | None:
    """Return the number of windows that texts were split into; None if each text is one sample.

    Args:
        batches: of tokenized texts.
    """
    if any(batch.texts is None for batch in batches):
        return None
    return sum(len(batch.indices) for batch in batches)


def mean_tokens(batches: Sequence[TokenBatch]) -> float:
    """Return the mean number of real tokens per sample.

    Args:
        batches: of tokenized texts; padding is not counted.
    """
    total = sum(int(batch.mask.sum()) for batch in batches)
    return total / sum(len(batch.indices) for batch in batches)


def single_samples(batches: Sequence[TokenBatch]) -> list[TokenBatch]:
    """Split batches into batches of one sample without padding.

    Args:
        batches: of tokenized texts.
    """
    singles = []
    for batch in batches:
        for row in range(len(batch.indices)):
            keep = batch.mask[row]
            inputs = {
                name: tensor[row : row + 1, keep] if tensor.shape[1:2] == keep.shape else tensor[row : row + 1]
                for name, tensor in batch.inputs.items()
            }
            where = None if batch.positions is None else batch.positions[row : row + 1, keep]
            singles.append(replace(batch.take([row]), inputs=inputs, positions=where))
    return singles


def joined(singles: Sequence[TokenBatch]) -> TokenBatch:
    """Join samples into one batch, padded to the longest, with padding masked out.

    Args:
        singles: batches of one sample each.
    """
    length = max(single.mask.shape[1] for single in singles)

    def padded(tensor: torch.Tensor, tokens: int) -> torch.Tensor:
        if tensor.shape[1:2] != (tokens,):  # one value per sample, not per token
            return tensor
        return torch.nn.functional.pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, length - tokens))

    inputs = {
        key: torch.cat([padded(single.inputs[key], single.mask.shape[1]) for single in singles])
        for key in singles[0].inputs
    }
    positions = None
    if singles[0].positions is not None:
        positions = torch.cat([padded(single.labelled, single.mask.shape[1]) for single in singles])
    return TokenBatch(
        inputs,
        tuple(index for single in singles for index in single.indices),
        positions,
        None if singles[0].texts is None else tuple(text for single in singles for text in single.texts or ()),
        tuple(lost for single in singles for lost in single.lost),
    )


def apart(batches: Sequence[TokenBatch], kind_of: Callable[[int], int]) -> list[TokenBatch]:
    """Batch samples again by length, so that no batch contains samples of different kinds.

    Batches are as large as the largest given one. If none of the given batches has padding, samples of different
    length are not batched together: the model may not support padding.

    Args:
        batches: of tokenized texts.
        kind_of: a sample's kind by its index; batches of lower kinds come first.
    """
    if not batches:
        return []
    size = max(len(batch.indices) for batch in batches)
    pads = any(not bool(batch.mask.all()) for batch in batches)
    kinds: dict[tuple[int, int], list[TokenBatch]] = {}
    for single in sorted(single_samples(batches), key=lambda single: single.mask.shape[1]):
        length = 0 if pads else single.mask.shape[1]
        kinds.setdefault((kind_of(single.indices[0]), length), []).append(single)
    return [
        joined(same[start : start + size]) for _, same in sorted(kinds.items()) for start in range(0, len(same), size)
    ]


def run(model: torch.nn.Module, batch: TokenBatch) -> Any:
    """Run a model on a batch and return everything that it returns; a decoder does not cache keys and values.

    Args:
        model: any model.
        batch: its inputs.
    """
    keeps = "use_cache" in inspect.signature(model.forward).parameters
    return model(**batch.inputs, **({"use_cache": False} if keeps else {}))


@torch.no_grad()
def logits(model: torch.nn.Module, batches: Sequence[TokenBatch]) -> torch.Tensor:
    """Run the model over all batches; returns float32 `[N, C]` in the order of the texts.

    Args:
        model: a classifier of C classes.
        batches: of N texts together.
    """
    rows: dict[int, torch.Tensor] = {}
    for batch in batches:
        for index, row in zip(batch.indices, model(**batch.inputs).logits, strict=True):
            rows[index] = row
    return torch.stack([rows[index] for index in range(len(rows))])


def _length(sample: Sample) -> int:
    return len(sample.encoded["input_ids"])


def _padded_batch(tokenizer: Any, samples: Sequence[Sample], indices: tuple[int, ...]) -> TokenBatch:
    padded = dict(tokenizer.pad([dict(sample.encoded) for sample in samples], return_tensors="pt"))
    positions = None
    if samples[0].positions is not None:
        length, left = padded["input_ids"].shape[1], tokenizer.padding_side == "left"
        positions = torch.zeros(len(samples), length, dtype=torch.bool)
        for row, sample in enumerate(samples):
            marks = torch.tensor(sample.positions, dtype=torch.bool)
            positions[row, length - len(marks) if left else 0 :][: len(marks)] = marks
    return TokenBatch(padded, indices, positions, None, tuple(sample.lost for sample in samples))


def _chunks(order: Sequence[int], lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Split into runs of at most `size` samples and, with padding, at most `size * USUAL_TOKENS` tokens."""
    chunk: list[int] = []
    for index in order:
        if chunk and (len(chunk) == size or (len(chunk) + 1) * lengths[index] > size * USUAL_TOKENS):
            yield chunk
            chunk = []
        chunk.append(index)
    if chunk:
        yield chunk
