"""A table read from a file of any format, and errors about its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import InputFileError
from ..runtime.input_files import quoted


@dataclass(frozen=True, slots=True)
class Table:
    """Named columns, and the position of each row in the file.

    Attributes:
        path: the file.
        columns: names in the order of the file; "" for a column without a name, which cannot be selected.
        values: returns the cells of a column by name, one for each row. Cells are strings in delimited files; in typed
            files also numbers, lists and objects, and None for a missing value.
        places: number of the line that each row begins on, from 1; for formats without lines, the row's number.
        unit: unit of `places`, `line` or `row`.
    """

    path: Path
    columns: tuple[str, ...]
    values: Callable[[str], Sequence[Any]]
    places: Sequence[int]
    unit: Literal["line", "row"] = "line"

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True, slots=True)
class RowFault:
    """An error in a row; `reason` is a phrase that follows "line 7: "."""

    place: int
    reason: str


def refuse_rows(path: Path, unit: str, faults: Sequence[RowFault], num_rows: int, remedy: str) -> None:
    """Refuse a file with invalid rows; the message states the first one and the number of invalid rows.

    Args:
        path: the file.
        unit: unit of the rows' places, `line` or `row`.
        faults: errors in the order of the file; none accepts the file.
        num_rows: number of rows of the file.
        remedy: what to do, as a sentence.

    Raises:
        InputFileError: at least one row is invalid.
    """
    if faults:
        first = faults[0]
        others = "" if len(faults) == 1 else f" ({len(faults)} of {num_rows} rows are wrong, this is the first)"
        raise InputFileError(f"{path}: {unit} {first.place}: {first.reason}{others}. {remedy}")


def shown_names(names: Sequence[str]) -> str:
    """Format column names for a message; surrounding blanks and unprintable characters are made visible.

    Args:
        names: names from a header.
    """
    plain = [name for name in names[:12] if name and len(name) <= 40 and name.isprintable() and name == name.strip()]
    shown = [name if name in plain else quoted(name) for name in names[:12]]
    return ", ".join(shown) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
