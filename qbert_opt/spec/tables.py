"""Embedding tables as items of a plan: what they may be stored as, and what they are where nobody chose.

A table is read row by row: `rows:each` gives every row its own range, `columns:G` every G values of a row. Ranges over
several rows would save next to nothing and let the longest row ruin the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from ..errors import UsageError
from .choices import Choice
from .profiles import TABLE_BITS, TableSpec

TABLE_METHOD = "mse"  # at 2 bits one third of the loss of plain rounding; needs no text
TABLE_CHOICE = Choice(TABLE_BITS, "rows:each", "rtn")  # of tables that were not scored
DEFAULT_TABLE_BITS = (2, 3, 4, 6, 8)
DEFAULT_TABLE_GROUPINGS = ("rows:each", "columns:64", "columns:128")


class _Stored(Protocol):
    @property
    def choice(self) -> Choice: ...


def table_grid(
    bits: Iterable[int] = DEFAULT_TABLE_BITS, groupings: Iterable[str] = DEFAULT_TABLE_GROUPINGS
) -> tuple[Choice, ...]:
    """Return every bits × grouping choice of a table.

    Raises:
        UsageError: a grouping in which rows share a range.
    """
    groupings = tuple(groupings)
    for grouping in groupings:
        if grouping.startswith("rows:") and grouping != "rows:each":
            raise UsageError(f"table grouping {grouping}: rows of a table share no range. Legal: rows:each, columns:N.")
    return tuple(Choice(b, g, TABLE_METHOD) for b in bits for g in groupings)


def table_choice(storage: Mapping[str, _Stored], module: str) -> Choice:
    """The choice of a table under a plan: what was chosen, or 8 bits per row where nothing was."""
    return storage[module].choice if module in storage else TABLE_CHOICE


def table_bytes(table: TableSpec, choice: Choice) -> int:
    """Bytes of a table as stored: codes, scales and offsets."""
    return choice.bytes(table.rows, table.columns, heads=1)
