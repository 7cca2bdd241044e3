"""The right answers of labelled texts, beside the rows that a model answers with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..data.cells import words
from ..data.texts import LabeledTexts
from ..errors import InputFileError
from .batches import TokenBatch, encode, longest_sample, single_samples, span_positions, word_positions
from .loading import LoadedModel, label_index
from .outputs import POSITION_KINDS, OutputKind, Outputs

NONE = -100  # a row whose answer is not among its columns; what torch's losses ignore


@dataclass(frozen=True, slots=True)
class SpanText:
    """A text that is searched: its characters, the characters `[start, end)` of each token, the accepted answers."""

    text: str
    offsets: tuple[tuple[int, int], ...]
    accepted: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Right answers.

    Attributes:
        kind: of the outputs.
        rows: the right column of each row, int64; the number itself for regressions, float64; `NONE` where the answer
            was cut away.
        samples: the sample that each row belongs to, int64, ascending.
        names: names of the columns of classes and tags.
        words: for tags: which words of each sample have a row.
        tags: for tags: the tags of all words of each sample, those that were cut away included.
        spans: for spans: the text of each sample.
    """

    kind: OutputKind
    rows: torch.Tensor
    samples: torch.Tensor
    names: tuple[str, ...] = ()
    words: tuple[tuple[int, ...], ...] = ()
    tags: tuple[tuple[str, ...], ...] = ()
    spans: tuple[SpanText, ...] = ()

    def of(self, found: Outputs) -> torch.Tensor:
        """Return the right answers of some rows, those of one batch for example, in their order."""
        samples, counts = found.samples.unique_consecutive(return_counts=True)
        starts = torch.searchsorted(self.samples, samples)
        parts = [self.rows[a : a + n] for a, n in zip(starts.tolist(), counts.tolist(), strict=True)]
        return torch.cat(parts) if parts else self.rows[:0]


def read_targets(loaded: LoadedModel, data: LabeledTexts, batches: Sequence[TokenBatch]) -> Targets | None:
    """Return the right answers, or None where the data has none or the outputs have no right and wrong.

    Args:
        loaded: the model.
        data: the texts.
        batches: the same texts, tokenized for this model.

    Raises:
        InputFileError: labels that the model does not know, or that are not of its kind.
    """
    kind = loaded.head.kind
    if loaded.given_head is not None and kind in POSITION_KINDS:
        return None  # the samples of a plain module come without labels of positions
    if kind == "vocabulary":
        return _masked_tokens(loaded, data, batches)
    if data.labels is None or kind == "embeddings":
        return None
    each = torch.arange(len(data))
    if kind == "classes":
        return Targets(kind, label_index(loaded, data.labels, data.name), each, names=loaded.labels or ())
    if kind == "regression":
        return Targets(kind, _numbers(data), each)
    return _tags(loaded, data) if kind == "tags" else _spans(loaded, data)


def tag_lists(data: LabeledTexts) -> list[list[str]]:
    """Return the tags of each text.

    Raises:
        InputFileError: not one tag for each word.
    """
    found = []
    for row, (text, label) in enumerate(zip(data.texts, data.labels or (), strict=True)):
        tokens, tags = words(text[0]), words(label)
        if len(tokens) != len(tags):
            raise InputFileError(
                f"{data.name}: sample {row + 1} has {len(tokens)} words and {len(tags)} tags ({label[:40]!r}). "
                "Give one tag for each word; --label-column names the column."
            )
        found.append(tags)
    return found


def accepted_answers(data: LabeledTexts) -> list[tuple[str, ...]]:
    """Return the accepted answers of each question.

    Raises:
        InputFileError: a label that is no JSON list of texts.
    """
    found = []
    for row, label in enumerate(data.labels or ()):
        try:
            answers = json.loads(label)
        except ValueError:
            answers = None
        if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
            raise InputFileError(
                f"{data.name}: sample {row + 1} has label {label[:40]!r}; spans want a JSON list of answers."
            )
        found.append(tuple(answers))
    return found


def _numbers(data: LabeledTexts) -> torch.Tensor:
    try:
        return torch.tensor([float(label) for label in data.labels or ()], dtype=torch.float64)
    except ValueError as error:
        raise InputFileError(
            f"{data.name}: {error}. This model answers with numbers; give numbers as labels."
        ) from None


def _tags(loaded: LoadedModel, data: LabeledTexts) -> Targets:
    names = loaded.labels or ()
    known = {str(index): index for index in range(len(names))} | {name: index for index, name in enumerate(names)}
    rows: list[int] = []
    shown_words, tags = [], []
    for row, (text, given) in enumerate(zip(data.texts, tag_lists(data), strict=True)):
        unknown = next((tag for tag in given if tag not in known), None)
        if unknown is not None:
            shown = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
            raise InputFileError(f"{data.name}: sample {row + 1} has tag {unknown!r}. {loaded.name} knows {shown}.")
        encoded = encode(loaded.tokenizer, text, "tags", _longest(loaded))
        ids = encoded.word_ids(0)
        kept = tuple(ids[i] for i, first in enumerate(word_positions(encoded)) if first)
        rows += [known[given[word]] for word in kept]
        shown_words.append(kept)
        tags.append(tuple(names[known[tag]] for tag in given))
    counts = torch.tensor([len(kept) for kept in shown_words])
    samples = torch.arange(len(data)).repeat_interleave(counts)
    return Targets("tags", torch.tensor(rows), samples, names=names, words=tuple(shown_words), tags=tuple(tags))


def _spans(loaded: LoadedModel, data: LabeledTexts) -> Targets:
    rows: list[int] = []
    spans = []
    for text, accepted in zip(data.texts, accepted_answers(data), strict=True):
        encoded = loaded.tokenizer(
            *text, truncation="only_second", max_length=_longest(loaded), return_offsets_mapping=True
        )
        searched = span_positions(encoded)
        offsets = tuple(
            (a, b) if inside else (0, 0) for (a, b), inside in zip(encoded["offset_mapping"], searched, strict=True)
        )
        spans.append(SpanText(text[1], offsets, accepted))
        rows += _span_rows(text[1], accepted, offsets, searched)
    return Targets("spans", torch.tensor(rows), torch.arange(len(data)).repeat_interleave(2), spans=tuple(spans))


def _span_rows(
    text: str, accepted: tuple[str, ...], offsets: Sequence[tuple[int, int]], searched: Sequence[bool]
) -> tuple[int, int]:
    """Token where the first accepted answer starts and token where it ends; its first occurrence counts."""
    answer = accepted[0] if accepted else ""
    start = text.find(answer)
    if not answer or start < 0:
        return NONE, NONE
    end = start + len(answer)
    inside = [i for i, (a, b) in enumerate(offsets) if searched[i] and a < end and b > start]
    complete = bool(inside) and offsets[inside[-1]][1] >= end
    return (inside[0], inside[-1]) if complete else (NONE, NONE)


def _masked_tokens(loaded: LoadedModel, data: LabeledTexts, batches: Sequence[TokenBatch]) -> Targets | None:
    """The tokens behind the masks; None where the texts came with masks of their own."""
    rows: list[torch.Tensor] = []
    for single in sorted(single_samples(batches), key=lambda batch: batch.indices[0]):
        original = torch.tensor(
            encode(loaded.tokenizer, data.texts[single.indices[0]], "classes", _longest(loaded))["input_ids"]
        )
        rows.append(original[single.labelled[0]])
    found = torch.cat(rows)
    if (found == loaded.tokenizer.mask_token_id).any():
        return None
    samples = torch.arange(len(data)).repeat_interleave(torch.tensor([len(part) for part in rows]))
    return Targets("vocabulary", found, samples)


def _longest(loaded: LoadedModel) -> int:
    return longest_sample(loaded.tokenizer, loaded.head.kind)
