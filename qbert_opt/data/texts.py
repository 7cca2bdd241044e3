"""Texts and labels from files: tables, folders of splits, and the layouts in `readers/`.

This file selects the columns. Either every row of a file is read, or the file is refused; rows are never dropped, and
cells are never guessed.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputFileError, UsageError
from .cells import check_tags, label_of, text_of
from .reader import reader_of
from .sources import bundled_datasets, find_files, read_table
from .tables import RowFault, Table, refuse_rows, shown_names

__all__ = ["LabeledTexts", "bundled_datasets", "read_texts", "split_disjoint"]

LABEL_COLUMNS = ("label", "labels", "intent", "class", "tags", "ner_tags", "answers")
TEXT_COLUMNS = (
    ("text",),
    ("sentence",),
    ("utterance",),
    ("content",),
    ("tokens",),
    ("question", "context"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
)
SEPARATORS = {"\t": "tabs", ";": "semicolons", ",": "commas", "|": "bars"}
TEXT_REMEDY = "Every row needs a text; correct or remove the row."
LABEL_REMEDY = "Label every row, or drop the column where no labels are needed."


@dataclass(frozen=True, slots=True)
class LabeledTexts:
    """Texts of a data set, each a sentence or a pair, with optional labels.

    Attributes:
        name: what the user called the data.
        texts: one or two strings per sample.
        labels: the label of each sample as written in the file; None without a label column. Tags are separated by
            blanks, one for each word. For span extraction, a label is a JSON list of accepted answers, empty for an
            unanswerable question.
        whole_labels: the labels of the whole data set that these texts were drawn from, which determine how labels are
            read; None if this is the whole data set.

    Raises:
        UsageError: a sample is not one or two strings, or there is not one label, a string, for each sample.
    """

    name: str
    texts: tuple[tuple[str, ...], ...]
    labels: tuple[str, ...] | None
    whole_labels: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for index, text in enumerate(self.texts):
            strings = isinstance(text, (tuple, list)) and all(isinstance(part, str) for part in text)
            if not strings or len(text) not in (1, 2):
                raise UsageError(
                    f"{self.name}: `texts` {index} is {text!r:.80}. Give a tuple of one string, or of two for a pair."
                )
        if self.labels is None:
            return
        if len(self.labels) != len(self.texts):
            raise UsageError(f"{self.name}: {len(self.labels)} labels for {len(self.texts)} texts. Give one for each.")
        for index, label in enumerate(self.labels):
            if not isinstance(label, str):
                raise UsageError(f"{self.name}: label {index} is {label!r:.80}. Give a string, also for a number.")

    def __repr__(self) -> str:
        """Return one line."""
        return f"LabeledTexts({self.name!r}, texts={len(self.texts)}, labelled={self.labels is not None})"

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def sha256(self) -> str:
        """Hash of texts and labels, independent of the file format."""
        digest = hashlib.sha256()
        for index, text in enumerate(self.texts):
            digest.update("\x1f".join(text).encode())
            digest.update(b"\x1e" + (self.labels[index].encode() if self.labels else b"") + b"\x1d")
        return digest.hexdigest()

    def take(self, indices: Sequence[int]) -> LabeledTexts:
        """Return some of the samples; `whole_labels` keeps the labels of all of them.

        Args:
            indices: numbers of the samples, in the order of the result.

        Raises:
            IndexError: there is no such sample.
        """
        labels = tuple(self.labels[i] for i in indices) if self.labels else None
        whole = self.labels if self.whole_labels is None else self.whole_labels
        return LabeledTexts(self.name, tuple(self.texts[i] for i in indices), labels, whole)


def read_texts(
    source: str | Path,
    *,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    split: str | None = None,
) -> LabeledTexts:
    """Read texts and labels from a file, a folder of splits, or a bundled data set.

    Args:
        source: a path, or the name of a bundled data set (`snips/dev`).
        text_columns: one or two column names; by default common names are tried.
        label_column: name of the label column; by default common names are tried.
        split: which split of a folder to read, for example `test`.

    Raises:
        InputFileError: the file is missing or unreadable, a row has no text, or only some rows have a label.
        UsageError: a given column or split does not exist, or a column is given twice.
    """
    if text_columns and len(set(text_columns)) < len(text_columns):
        raise UsageError(f"`text_columns` {text_columns[-1]}: is given twice; a pair has two different columns.")
    path = Path(source)
    layout = reader_of(path)
    if layout is not None:
        name, reader = layout
        if text_columns:
            raise UsageError(f"`text_columns`: {source} has the layout {name!r}, whose texts have no column names.")
        samples, truth = reader.read(path, split=split, label_column=label_column)
        if not samples:
            raise InputFileError(f"{source}: holds no samples. Give a file with at least one.")
        return LabeledTexts(str(source), tuple(samples), None if truth is None else tuple(truth))
    parts = [_labelled(read_table(file), text_columns, label_column) for file in find_files(str(source), split)]
    if len({labels is None for _, labels in parts}) > 1:
        raise InputFileError(f"{source}: some files of the split have labels and some have none. Give one file.")
    texts = [text for part, _ in parts for text in part]
    labels = None if parts[0][1] is None else tuple(label for _, part in parts for label in part or ())
    return LabeledTexts(str(source), tuple(texts), labels)


def split_disjoint(
    data: LabeledTexts, sizes: Sequence[int], *, seed: int, names: Sequence[str] = ()
) -> list[LabeledTexts]:
    """Draw disjoint subsets of the given sizes; a text that occurs twice is never in two of them.

    Args:
        data: the data set.
        sizes: number of texts of each subset.
        seed: the same seed draws the same subsets.
        names: parameters that the sizes come from, for the message; empty if they come from none.

    Raises:
        InputFileError: there are fewer distinct texts than requested.
    """
    first: dict[tuple[str, ...], int] = {}
    for index, text in enumerate(data.texts):
        first.setdefault(text, index)
    distinct = np.array(list(first.values()))
    if len(distinct) < sum(sizes):
        wanted = [f"{size} (`{name}`)" for size, name in zip(sizes, names, strict=True)] if names else map(str, sizes)
        raise InputFileError(
            f"{data.name}: {len(distinct)} distinct texts, but {' + '.join(wanted)} are needed. Give more data or ask "
            "for fewer."
        )
    order = np.random.default_rng(seed).permutation(distinct)
    starts = np.cumsum([0, *sizes])
    return [data.take(order[a:b].tolist()) for a, b in itertools.pairwise(starts)]


def _labelled(
    table: Table, text_columns: Sequence[str] | None, label_column: str | None
) -> tuple[list[tuple[str, ...]], list[str] | None]:
    """Extract texts and labels from a table, checking that every row has a text and, with a label column, a label."""
    if not len(table):
        raise InputFileError(f"{table.path}: holds no rows. Give a file with at least one text.")
    chosen_text = _text_columns(table, text_columns)
    chosen_label = _label_column(table, label_column)
    text_cells = {name: table.values(name) for name in chosen_text}
    columns = [_converted(table, name, text_cells[name], text_of, TEXT_REMEDY) for name in chosen_text]
    texts = list(zip(*columns, strict=True))
    if chosen_label is None:
        return texts, None
    cells = table.values(chosen_label)
    labels = _converted(table, chosen_label, cells, lambda cell: label_of(cell, chosen_label), LABEL_REMEDY)
    if len(chosen_text) == 1 and chosen_label != "answers":
        _check_tag_lists(table, text_cells[chosen_text[0]], cells)
    return texts, labels


def _converted(table: Table, name: str, cells: Sequence[Any], convert: Callable[[Any], str], remedy: str) -> list[str]:
    converted, faults = [], []
    for place, cell in zip(table.places, cells, strict=True):
        try:
            converted.append(convert(cell))
        except ValueError as reason:
            faults.append(RowFault(place, f"column {name!r} {reason}"))
    refuse_rows(table.path, table.unit, faults, len(table), remedy)
    return converted


def _check_tag_lists(table: Table, texts: Sequence[Any], labels: Sequence[Any]) -> None:
    """Check that lists of words and tags can be joined by blanks and split again."""
    faults = []
    for place, tokens, tags in zip(table.places, texts, labels, strict=True):
        if isinstance(tokens, list) and isinstance(tags, list):
            try:
                check_tags(tokens, tags)
            except ValueError as reason:
                faults.append(RowFault(place, str(reason)))
    refuse_rows(table.path, table.unit, faults, len(table), "Words and tags come in pairs.")


def _text_columns(table: Table, given: Sequence[str] | None) -> tuple[str, ...]:
    names = [name for name in table.columns if name]
    if given:
        if len(given) > 2:
            raise UsageError(f"`text_columns`: {len(given)} columns given; a model reads one text or a pair.")
        for column in given:
            _check_column(table, "`text_columns`", column)
        return tuple(given)
    for candidate in reversed(TEXT_COLUMNS):
        if all(column in names for column in candidate):
            return candidate
    [single] = names if len(names) == 1 else [""]
    other = next((sign for sign in SEPARATORS if sign in single), None)
    hint = (
        f" Its header has one column, in which {SEPARATORS[other]} separate names: is the ending right?"
        if other
        else ""
    )
    raise InputFileError(
        f"{table.path}: no text column among {shown_names(names)}. "
        f"Name it with `text_columns`, or call it 'text'.{hint}"
    )


def _label_column(table: Table, given: str | None) -> str | None:
    if given is not None:
        _check_column(table, "`label_column`", given)
        return given
    return next((name for name in LABEL_COLUMNS if name in table.columns), None)


def _check_column(table: Table, option: str, column: str) -> None:
    if not column or column not in table.columns:
        raise UsageError(f"{option} {column}: {table.path} has columns {shown_names(table.columns)}.")
