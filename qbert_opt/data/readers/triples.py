"""Triples of a knowledge graph with the words of its entities and relations (WN11, KG-BERT's layout).

`train.tsv`, `dev.tsv` and `test.tsv` hold head, relation, tail and, where there are any, a label; `entity2text.txt` and
`relation2text.txt` beside them hold the words. A sample is the pair (head and relation, tail).
"""

from __future__ import annotations

from pathlib import Path

from ...errors import InputFileError, UsageError

WORDS = ("entity2text.txt", "relation2text.txt")


def reads(path: Path) -> bool:
    """Tell whether a folder, or the folder of a file, has the words of entities and relations."""
    folder = path if path.is_dir() else path.parent
    return all((folder / name).is_file() for name in WORDS) and (path.is_dir() or path.suffix == ".tsv")


def read(path: Path, *, split: str | None, label_column: str | None) -> tuple[list[tuple[str, ...]], list[str] | None]:
    """Read triples as pairs of texts.

    Raises:
        InputFileError: an entity or relation without words, or rows of different length.
        UsageError: an unknown split or column.
    """
    if label_column not in (None, "label"):
        raise UsageError(f"--label-column {label_column}: {path} has label.")
    folder = path if path.is_dir() else path.parent
    file = path
    if path.is_dir():
        names = sorted(found.stem for found in folder.glob("*.tsv"))
        if split not in names:
            raise UsageError(f"--split: {path} holds {', '.join(names)}. Say which with --split.")
        file = folder / f"{split}.tsv"
    entities, relations = (dict(row[:2] for row in _rows(folder / name, 2, 2)) for name in WORDS)
    texts: list[tuple[str, ...]] = []
    labels: list[str] = []
    for number, row in enumerate(_rows(file, 3, 4), 1):
        for name, words in ((row[0], entities), (row[1], relations), (row[2], entities)):
            if name not in words:
                raise InputFileError(f"{file}: line {number}: {name!r} has no words in {' or '.join(WORDS)}.")
        texts.append((f"{entities[row[0]]} {relations[row[1]]}", entities[row[2]]))
        labels += row[3:]
    if labels and len(labels) != len(texts):
        raise InputFileError(f"{file}: {len(labels)} of {len(texts)} lines have a label. Label all or none.")
    return texts, labels or None


def _rows(path: Path, least: int, most: int) -> list[list[str]]:
    try:
        rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputFileError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None
    for number, row in enumerate(rows, 1):
        if not least <= len(row) <= most:
            raise InputFileError(f"{path}: line {number} has {len(row)} columns; legal are {least} to {most}.")
    return rows
