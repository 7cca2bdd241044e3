"""Words and tags in columns, as in CoNLL's shared tasks: one word per line, an empty line after each sentence.

The first column is the word and the last one the tag; `--label-column 2` selects the second column as the tag. Columns
are separated by tabs if the file contains any, else by blanks. Lines that begin with `-DOCSTART-` are skipped.
"""

from __future__ import annotations

from pathlib import Path

from ...errors import InputFileError, UsageError
from ...runtime.input_files import decode_text, read_bytes, text_lines
from ..cells import check_tags, words
from ..sources import MAX_TEXT_BYTES, is_folder
from ..tables import RowFault, refuse_rows, shown_names

SUFFIXES = (".conll", ".bio", ".iob", ".iob2")
DOCUMENT = "-DOCSTART-"


def reads(path: Path) -> bool:
    """Return whether a file, or every data file of a folder, has one of this layout's extensions."""
    return path.suffix in SUFFIXES if not is_folder(path) else bool(_splits(path))


def read(path: Path, *, split: str | None, label_column: str | None) -> tuple[list[tuple[str, ...]], list[str] | None]:
    """Read sentences with their tags; words and tags are joined by blanks.

    Raises:
        InputFileError: lines have different numbers of columns, or only one column.
        UsageError: an unknown split or column.
    """
    file = path
    if path.is_dir():
        splits = _splits(path)
        if split not in splits:
            raise UsageError(f"`split`: {path} holds {shown_names(sorted(splits))}. Say which with `split`.")
        file = splits[split]
    elif split is not None:
        raise UsageError(f"`split` {split}: {path} is a file. Leave `split` out.")
    lines = text_lines(decode_text(read_bytes(file, MAX_TEXT_BYTES, "a data file"), file), file)
    tabs = any("\t" in line for line in lines)
    rows = [
        (number, line.split("\t") if tabs and line.strip() else words(line)) for number, line in enumerate(lines, 1)
    ]
    rows = [(number, row) for number, row in rows if not row or not row[0].startswith(DOCUMENT)]
    width = len(next((row for _, row in rows if row), ()))
    faults = [
        RowFault(number, f"has {len(row)} columns; the first word has {width}")
        for number, row in rows
        if row and len(row) != width
    ]
    refuse_rows(file, "line", faults, len(rows), "A line is a word and its columns; sentences end at empty lines.")
    if width == 1:
        raise InputFileError(f"{file}: has one column. Give a word and its tag on each line.")
    return _sentences(file, rows, _column(file, label_column, width))


def _column(file: Path, label_column: str | None, width: int) -> int:
    """Return the index of the tag column."""
    if label_column in (None, "tags", "ner_tags"):
        return width - 1
    if not label_column.isdecimal() or not 2 <= int(label_column) <= width:
        raise UsageError(
            f"`label_column` {label_column}: {file} has {width} columns. Give a number from 2 to {width}, or tags."
        )
    return int(label_column) - 1


def _sentences(file: Path, rows: list[tuple[int, list[str]]], column: int) -> tuple[list[tuple[str, ...]], list[str]]:
    texts: list[tuple[str, ...]] = []
    labels: list[str] = []
    tokens: list[str] = []
    tags: list[str] = []
    faults = []
    for number, row in [*rows, (rows[-1][0] + 1 if rows else 1, [])]:
        if row:
            try:
                check_tags([row[0]], [row[column]])
            except ValueError as reason:
                faults.append(RowFault(number, str(reason).replace(" 1 ", " ")))
            tokens.append(row[0])
            tags.append(row[column])
        elif tokens:
            texts.append((" ".join(tokens),))
            labels.append(" ".join(tags))
            tokens, tags = [], []
    refuse_rows(file, "line", faults, len(rows), "Give a word and a tag on each line.")
    return texts, labels


def _splits(folder: Path) -> dict[str, Path]:
    """Return the files of this layout by split name."""
    return {file.stem: file for file in sorted(folder.glob("*")) if file.suffix in SUFFIXES and file.is_file()}
