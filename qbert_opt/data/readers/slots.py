"""Utterances with intents and slot tags in parallel files: `seq.in`, `label`, `seq.out` (SNIPS, ATIS).

The default labels are the intents in `label`; `--label-column seq.out` reads the tags, one for each word.
"""

from __future__ import annotations

from pathlib import Path

from ...errors import InputFileError, UsageError
from ...runtime.input_files import decode_text, read_bytes, text_lines
from ..cells import is_blank, words
from ..sources import MAX_TEXT_BYTES, is_folder
from ..tables import RowFault, refuse_rows, shown_names

LABELS = ("label", "seq.out")


def reads(path: Path) -> bool:
    """Return whether a folder or its subfolders contain the parallel files."""
    return is_folder(path) and ((path / "seq.in").is_file() or any(path.glob("*/seq.in")))


def read(path: Path, *, split: str | None, label_column: str | None) -> tuple[list[tuple[str, ...]], list[str] | None]:
    """Read utterances with intents or tags.

    Raises:
        InputFileError: files of different length, or another number of tags than words.
        UsageError: an unknown split or column.
    """
    folder = path
    if not (path / "seq.in").is_file():
        names = sorted(file.parent.name for file in path.glob("*/seq.in"))
        if split not in names:
            raise UsageError(f"`split`: {path} holds {shown_names(names)}. Say which with `split`.")
        folder = path / str(split)
    elif split is not None:
        raise UsageError(f"`split` {split}: {path} is a single split. Leave `split` out.")
    present = [name for name in LABELS if (folder / name).is_file()]
    wanted = {"tags": "seq.out", "intent": "label"}.get(label_column or "", label_column)
    if wanted is not None and wanted not in present:
        raise UsageError(f"`label_column` {label_column}: {folder} has {', '.join(present) or 'no labels'}.")
    texts = _lines(folder / "seq.in")
    column = wanted or next(iter(present), None)
    if column is None:
        return [(text,) for text in texts], None
    labels = _lines(folder / column)
    if len(labels) != len(texts):
        raise InputFileError(f"{folder / column}: {len(labels)} lines, but seq.in has {len(texts)}. Give one for each.")
    if column == "seq.out":
        counts = [(len(words(text)), len(words(label))) for text, label in zip(texts, labels, strict=True)]
        faults = [
            RowFault(number, f"has {num_tags} tags for {num_words} words")
            for number, (num_words, num_tags) in enumerate(counts, 1)
            if num_words != num_tags
        ]
        refuse_rows(folder / column, "line", faults, len(texts), "Give one tag for each word.")
    return [(text,) for text in texts], labels


def _lines(path: Path) -> list[str]:
    content = decode_text(read_bytes(path, MAX_TEXT_BYTES, "a data file"), path)
    lines = [line.strip() for line in text_lines(content, path)]
    faults = [RowFault(number, "is empty") for number, line in enumerate(lines, 1) if is_blank(line)]
    refuse_rows(path, "line", faults, len(lines), "Remove the line from all three files.")
    return lines
