"""Texts and labels from the files that people have: tsv, csv, jsonl and parquet, or a folder of splits.

Reading is pandas' work; this file decides which columns are meant and refuses what would mislead a statistic. Layouts
of several files, or of nested JSON, are in `readers/`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from ..errors import InputFileError, UsageError
from ..runtime import plugins

SUFFIXES = (".tsv", ".csv", ".jsonl", ".json", ".parquet")
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
MAX_FILE_BYTES = 4 * 2**30


@dataclass(frozen=True, slots=True)
class LabeledTexts:
    """Texts of one data set, each one sentence or a pair, with a label where the file has one.

    Attributes:
        name: what the user called the data.
        texts: one tuple of one or two strings per sample.
        labels: the label of each sample as written in the file, or None when there is no label column. Tags: one for
            each word, separated by blanks. Answers in a text: a JSON list of those that are accepted, empty where it
            has no answer.
        whole_labels: the labels of the whole data set that these texts were taken from, which say how labels are to be
            read; None where this is the whole.
    """

    name: str
    texts: tuple[tuple[str, ...], ...]
    labels: tuple[str, ...] | None
    whole_labels: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def sha256(self) -> str:
        """Hash of texts and labels, the same whatever file format held them."""
        digest = hashlib.sha256()
        for index, text in enumerate(self.texts):
            digest.update("\x1f".join(text).encode())
            digest.update(b"\x1e" + (self.labels[index].encode() if self.labels else b"") + b"\x1d")
        return digest.hexdigest()

    def take(self, indices: Sequence[int]) -> LabeledTexts:
        """Return the samples at `indices`, in that order."""
        labels = tuple(self.labels[i] for i in indices) if self.labels else None
        whole = self.labels if self.whole_labels is None else self.whole_labels
        return LabeledTexts(self.name, tuple(self.texts[i] for i in indices), labels, whole)


def bundled_datasets() -> tuple[str, ...]:
    """Return the names of the data sets that ship with the package, for example `snips/dev`."""
    root = resources.files(__package__) / "bundled"
    return tuple(
        sorted(
            f"{folder.name}/{Path(file.name).stem}"
            for folder in root.iterdir()
            if folder.is_dir()
            for file in folder.iterdir()
            if file.name.endswith(".tsv")
        )
    )


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
        text_columns: one or two column names; found by their usual names when not given.
        label_column: name of the label column; found by its usual name when not given.
        split: which split of a folder to read, for example `test`.

    Raises:
        InputFileError: the file is missing, unreadable, or has empty lines or missing labels.
        UsageError: a named column or split does not exist.
    """
    for name in plugins.available("readers"):
        reader = plugins.load("readers", name)
        if reader.reads(Path(source)):
            found, given = reader.read(Path(source), split=split, label_column=label_column)
            if not found:
                raise InputFileError(f"{source}: holds no samples. Give a file with at least one.")
            return LabeledTexts(str(source), tuple(found), None if given is None else tuple(given))
    path = _find(str(source), split)
    frame = _read_frame(path)
    names = [str(c) for c in frame.columns]
    chosen_text = _text_columns(path, names, text_columns)
    chosen_label = _label_column(path, names, label_column)
    for column in chosen_text:
        blank = _blank(frame[column])
        if blank.any():
            raise InputFileError(
                f"{path}: column {column!r}: row {_row(blank)} is empty. Every row needs text; remove the empty rows."
            )
    texts = tuple(tuple(map(_cell, row)) for row in frame[list(chosen_text)].itertuples(index=False))
    if not texts:
        raise InputFileError(f"{path}: holds no rows. Give a file with at least one text.")
    if chosen_label is None:
        return LabeledTexts(str(source), texts, None)
    missing = _blank(frame[chosen_label])
    if missing.any():
        raise InputFileError(
            f"{path}: column {chosen_label!r}: row {_row(missing)} has no label. "
            "Label every row, or drop the column where no labels are needed."
        )
    labels = tuple(_cell(value) for value in frame[chosen_label])
    return LabeledTexts(str(source), texts, labels)


def split_disjoint(data: LabeledTexts, sizes: Sequence[int], *, seed: int) -> list[LabeledTexts]:
    """Draw disjoint samples of the given sizes; a text that occurs twice never lands in two of them.

    Raises:
        InputFileError: fewer distinct texts than the sizes ask for.
    """
    first: dict[tuple[str, ...], int] = {}
    for index, text in enumerate(data.texts):
        first.setdefault(text, index)
    distinct = np.array(list(first.values()))
    if len(distinct) < sum(sizes):
        raise InputFileError(
            f"{data.name}: {len(distinct)} distinct texts, but {' + '.join(map(str, sizes))} were asked for. "
            "Give more data or ask for fewer samples."
        )
    order = np.random.default_rng(seed).permutation(distinct)
    starts = np.cumsum([0, *sizes])
    return [data.take(order[a:b].tolist()) for a, b in itertools.pairwise(starts)]


def _find(source: str, split: str | None) -> Path:
    path = Path(source)
    if path.is_dir():
        return _find_split(path, split)
    if split is not None:
        raise UsageError(f"--split {split}: {source} is no folder of splits. Give the folder, or leave --split out.")
    if path.exists():
        return path
    bundled = Path(str(resources.files(__package__))) / "bundled" / f"{source}.tsv"
    if source in bundled_datasets():
        return bundled
    raise InputFileError(
        f"{source}: no such file. Give a {', '.join(SUFFIXES)} file, a folder of splits, "
        f"or a bundled data set ({', '.join(bundled_datasets())})."
    )


def _find_split(folder: Path, split: str | None) -> Path:
    """Hub layouts: DIR/test.csv, DIR/test-00000-of-00001.parquet, DIR/data/test-*.parquet."""
    files = sorted(f for f in [*folder.glob("*"), *folder.glob("data/*")] if f.suffix in SUFFIXES)
    names = sorted({f.stem.split("-")[0] for f in files})
    if not files:
        raise InputFileError(f"{folder}: no {', '.join(SUFFIXES)} file in this folder. Give a data file.")
    matching = [f for f in files if split is None or f.stem.split("-")[0] == split]
    if len(matching) == 1:
        return matching[0]
    if split is None:
        raise UsageError(f"{folder}: holds {', '.join(names)}. Say which with --split.")
    if not matching:
        raise UsageError(f"--split {split}: {folder} holds {', '.join(names)}.")
    raise UsageError(f"--split {split}: {folder} holds it in {len(matching)} files; give one file.")


def _read_frame(path: Path) -> pd.DataFrame:
    if path.suffix not in SUFFIXES:
        raise InputFileError(f"{path}: unknown ending {path.suffix!r}. Legal: {', '.join(SUFFIXES)}.")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise InputFileError(f"{path}: {path.stat().st_size} bytes; at most {MAX_FILE_BYTES}. Give a sample of it.")
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.suffix in (".json", ".jsonl"):
            return pd.read_json(path, lines=path.suffix == ".jsonl", dtype=False)
        separator = "\t" if path.suffix == ".tsv" else ","
        quoting: Literal[0, 3] = 3 if path.suffix == ".tsv" else 0  # csv.QUOTE_NONE: quotes in tsv files are text
        return pd.read_csv(
            path, sep=separator, quoting=quoting, dtype=str, keep_default_na=False, skip_blank_lines=False
        )
    except (ValueError, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputFileError(f"{path}: cannot be read as {path.suffix[1:]}: {reason}") from None


def _text_columns(path: Path, names: list[str], asked: Sequence[str] | None) -> tuple[str, ...]:
    if asked:
        for column in asked:
            if column not in names:
                raise UsageError(f"--text-column {column}: {path} has columns {', '.join(names)}.")
        if len(asked) > 2:
            raise UsageError(f"--text-column: {len(asked)} columns given; a model reads one text or a pair.")
        return tuple(asked)
    for candidate in reversed(TEXT_COLUMNS):
        if all(column in names for column in candidate):
            return candidate
    raise InputFileError(
        f"{path}: no text column among {', '.join(names)}. Name it with --text-column, or call it 'text'."
    )


def _label_column(path: Path, names: list[str], asked: str | None) -> str | None:
    if asked is not None:
        if asked not in names:
            raise UsageError(f"--label-column {asked}: {path} has columns {', '.join(names)}.")
        return asked
    return next((name for name in LABEL_COLUMNS if name in names), None)


def _cell(value: Any) -> str:
    """A cell as text: lists of words or tags joined by blanks, answers with their places as a JSON list of texts."""
    if isinstance(value, dict) and "text" in value:
        return json.dumps([str(text) for text in value["text"]])
    if isinstance(value, (list, tuple, np.ndarray)):
        return " ".join(map(str, value))
    return str(value)


def _blank(column: pd.Series) -> pd.Series:
    return column.isna() | (column.astype(str).str.strip() == "")


def _row(mask: pd.Series) -> int:
    """Number of the first marked row, counted as an editor counts lines under a header."""
    return int(np.flatnonzero(mask.to_numpy())[0]) + 2
