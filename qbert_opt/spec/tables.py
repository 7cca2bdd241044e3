"""Embedding tables as items of a plan: the choices for a table, and the default for a table that is not searched.

A table is read row by row: `rows:each` gives every row its own range, `columns:G` every G values of a row. Sharing a
range between rows would save almost nothing, and the row with the largest values would spoil the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from ..errors import UsageError
from .choices import Choice
from .forms import Form, legal_bits
from .profiles import TABLE_BITS, TableSpec

TABLE_METHOD = "mse"  # at 2 bits it has a third of the loss of min-max rounding, and it needs no text
TABLE_CHOICE = Choice(TABLE_BITS, "rows:each", "rtn")  # of tables that were not scored
DEFAULT_TABLE_BITS = (2, 3, 4, 6, 8)
DEFAULT_TABLE_GROUPINGS = ("rows:each", "columns:64", "columns:128")


class _Stored(Protocol):
    @property
    def choice(self) -> Choice: ...


def table_grid(
    bits: Iterable[int] = DEFAULT_TABLE_BITS,
    groupings: Iterable[str] = DEFAULT_TABLE_GROUPINGS,
    forms: Iterable[Form] = ("offset",),
) -> tuple[Choice, ...]:
    """Return every choice of bits × grouping × form for a table.

    Args:
        bits: bit widths.
        groupings: `rows:each` or `columns:G`.
        forms: what a range stores; tables have no `codebook`, and `ternary` at 2 bits only; `offset` if none is left.

    Raises:
        UsageError: a grouping in which rows share a range.
    """
    groupings = tuple(groupings)
    for grouping in groupings:
        if grouping.startswith("rows:") and grouping != "rows:each":
            raise UsageError(
                f"table grouping {grouping}: rows of a table cannot share a range. Legal: rows:each, columns:N."
            )
    bits = tuple(bits)
    held = (form for form in forms if form != "codebook" and set(bits) & set(legal_bits(form)))
    kept = tuple(held) or ("offset",)
    return tuple(
        Choice(b, g, TABLE_METHOD, form) for b in bits for g in groupings for form in kept if b in legal_bits(form)
    )


def table_choice(storage: Mapping[str, _Stored], module: str) -> Choice:
    """Return a table's choice: the plan's, or 8 bits with one range per row if the plan has none.

    Args:
        storage: the plan's choices, by module.
        module: name of the table.
    """
    return storage[module].choice if module in storage else TABLE_CHOICE


def table_bytes(table: TableSpec, choice: Choice) -> int:
    """Return the bytes of a table as stored: codes, scales and offsets.

    Args:
        table: shape of the table.
        choice: its choice.
    """
    return choice.bytes(table.rows, table.columns, heads=1)
