"""Utterances with intents and slot tags in parallel files: `seq.in`, `label`, `seq.out` (SNIPS, ATIS).

`--label-column seq.out` takes the tags, one for each word; the intents of `label` are the default.
"""

from __future__ import annotations

from pathlib import Path

from ...errors import InputFileError, UsageError

LABELS = ("label", "seq.out")


def reads(path: Path) -> bool:
    """Tell whether a folder, or its sub-folders, have the parallel files."""
    return path.is_dir() and ((path / "seq.in").is_file() or any(path.glob("*/seq.in")))


def read(path: Path, *, split: str | None, label_column: str | None) -> tuple[list[tuple[str, ...]], list[str] | None]:
    """Read utterances with intents or tags.

    Raises:
        InputFileError: files of different length, or tags that are not one for each word.
        UsageError: an unknown split or column.
    """
    folder = path
    if not (path / "seq.in").is_file():
        names = sorted(found.parent.name for found in path.glob("*/seq.in"))
        if split not in names:
            raise UsageError(f"--split: {path} holds {', '.join(names)}. Say which with --split.")
        folder = path / str(split)
    present = [name for name in LABELS if (folder / name).is_file()]
    wanted = {"tags": "seq.out", "intent": "label"}.get(label_column or "", label_column)
    if wanted is not None and wanted not in present:
        raise UsageError(f"--label-column {label_column}: {folder} has {', '.join(present) or 'no labels'}.")
    texts = _lines(folder / "seq.in")
    column = wanted or next(iter(present), None)
    if column is None:
        return [(text,) for text in texts], None
    labels = _lines(folder / column)
    if len(labels) != len(texts):
        raise InputFileError(f"{folder / column}: {len(labels)} lines, but seq.in has {len(texts)}. Give one for each.")
    for row, (text, label) in enumerate(zip(texts, labels, strict=True)):
        if column == "seq.out" and len(text.split()) != len(label.split()):
            raise InputFileError(
                f"{folder / column}: line {row + 1} has {len(label.split())} tags for {len(text.split())} words. "
                "Give one for each."
            )
    return [(text,) for text in texts], labels


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputFileError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None
    blank = next((row for row, line in enumerate(lines) if not line), None)
    if blank is not None:
        raise InputFileError(f"{path}: line {blank + 1} is empty. Remove it from all three files.")
    return lines
