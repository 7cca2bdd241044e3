"""Triples of a knowledge graph with texts of its entities and relations (WN11, KG-BERT's layout).

`train.tsv`, `dev.tsv` and `test.tsv` contain head, relation, tail and optionally a label; `entity2text.txt` and
`relation2text.txt` in the same folder contain the texts. A sample is the pair (head and relation, tail).
"""

from __future__ import annotations

from pathlib import Path

from ...errors import InputFileError, UsageError
from ...runtime.input_files import decode_text, quoted, read_bytes, text_lines
from ..cells import is_blank
from ..sources import MAX_TEXT_BYTES, is_folder
from ..tables import RowFault, refuse_rows, shown_names

WORDS = ("entity2text.txt", "relation2text.txt")


def reads(path: Path) -> bool:
    """Return whether a folder, or the folder of a file, contains the texts of entities and relations."""
    folder = path if is_folder(path) else path.parent
    try:
        return all((folder / name).is_file() for name in WORDS) and (folder == path or path.suffix == ".tsv")
    except OSError:  # a name that is too long for the system
        return False


def read(path: Path, *, split: str | None, label_column: str | None) -> tuple[list[tuple[str, ...]], list[str] | None]:
    """Read triples as pairs of texts.

    Raises:
        InputFileError: an entity or relation without text, or rows of different length.
        UsageError: an unknown split or column.
    """
    if label_column not in (None, "label"):
        raise UsageError(f"`label_column` {label_column}: {path} has label.")
    folder = path if path.is_dir() else path.parent
    file = path
    if path.is_dir():
        names = sorted(tsv.stem for tsv in folder.glob("*.tsv"))
        if split not in names:
            raise UsageError(f"`split`: {path} holds {shown_names(names)}. Say which with `split`.")
        file = folder / f"{split}.tsv"
    elif split is not None:
        raise UsageError(f"`split` {split}: {path} is a file. Leave `split` out, or give its folder.")
    entities, relations = (_names(folder / name) for name in WORDS)
    texts: list[tuple[str, ...]] = []
    labels: list[str] = []
    faults = []
    rows = _rows(file, 3, 4)
    for number, (head, relation, tail, *label) in enumerate(rows, 1):
        unknown = [
            name for name, known in ((head, entities), (relation, relations), (tail, entities)) if name not in known
        ]
        if unknown:
            faults.append(RowFault(number, f"{quoted(unknown[0])} has no words in {' or '.join(WORDS)}"))
            continue
        texts.append((f"{entities[head]} {relations[relation]}", entities[tail]))
        labels += label
    refuse_rows(file, "line", faults, len(rows), "Add its words, or remove the line.")
    if labels and len(labels) != len(texts):
        raise InputFileError(f"{file}: {len(labels)} of {len(texts)} lines have a label. Label all or none.")
    return texts, labels or None


def _names(path: Path) -> dict[str, str]:
    """Return the text of each entity or relation by name."""
    texts: dict[str, str] = {}
    faults = []
    rows = _rows(path, 2, 2)
    for number, (name, text) in enumerate(rows, 1):
        if texts.setdefault(name, text) != text:
            faults.append(RowFault(number, f"{quoted(name)} has other words than before"))
    refuse_rows(path, "line", faults, len(rows), "Keep one line for each name.")
    return texts


def _rows(path: Path, least: int, most: int) -> list[list[str]]:
    lines = text_lines(decode_text(read_bytes(path, MAX_TEXT_BYTES, "a data file"), path), path)
    rows = [line.rstrip("\t").split("\t") for line in lines]  # the published files have some tabs too many at the end
    legal = str(least) if least == most else f"{least} to {most}"
    faults = [
        RowFault(number, f"has {len(row)} columns; legal are {legal}")
        if not least <= len(row) <= most
        else RowFault(number, "has an empty column")
        for number, row in enumerate(rows, 1)
        if not least <= len(row) <= most or any(map(is_blank, row))
    ]
    refuse_rows(path, "line", faults, len(rows), "Columns end at tabs.")
    return rows
