"""A table from a file, whatever its format, and the refusal of rows that are wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import InputFileError
from ..runtime.input_files import quoted


@dataclass(frozen=True, slots=True)
class Table:
    """Named columns over rows that know their place in the file.

    Attributes:
        path: the file.
        columns: names in the order of the file; a column without a name is "" and cannot be asked for.
        values: gives the cells of a column by its name, one for each row. Cells are text in delimited files; in typed
            files also numbers, lists and objects, and None where there is no value.
        places: line of the file that each row begins in, from 1; or its number among the rows, where a file has no
            lines.
        unit: what `places` count.
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
    """What is wrong with a row, as a phrase that continues "line 7: "."""

    place: int
    reason: str


def refuse_rows(path: Path, unit: str, faults: Sequence[RowFault], num_rows: int, remedy: str) -> None:
    """Refuse a file whose rows have faults: says the first one, and how many rows of how many are at fault.

    Args:
        path: the file.
        unit: what places count, `line` or `row`.
        faults: in the order of the file; none is no refusal.
        num_rows: rows in all.
        remedy: what to do, as a sentence.

    Raises:
        InputFileError: there is a fault.
    """
    if faults:
        first = faults[0]
        others = "" if len(faults) == 1 else f" ({len(faults)} of {num_rows} rows are wrong, this is the first)"
        raise InputFileError(f"{path}: {unit} {first.place}: {first.reason}{others}. {remedy}")


def shown_names(names: Sequence[str]) -> str:
    """Column names for a message; blanks around a name and characters that do not print are made visible.

    Args:
        names: as a header has them.
    """
    plain = [name for name in names[:12] if name and len(name) <= 40 and name.isprintable() and name == name.strip()]
    shown = [name if name in plain else quoted(name) for name in names[:12]]
    return ", ".join(shown) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
