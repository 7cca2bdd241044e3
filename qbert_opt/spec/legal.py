"""Which choices an item's shape allows, and which embedding tables are items."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import UsageError
from .choices import Choice
from .profiles import MatrixSpec, ModelProfile, TableSpec


def masked_choices(item: MatrixSpec | TableSpec, choices: Sequence[Choice], *, heads: int) -> dict[str, str]:
    """Return the reasons why choices do not fit an item, by name of the choice.

    Args:
        item: a matrix or a table.
        choices: ways to store it.
        heads: attention heads of the model, for `rows:heads`.
    """
    reasons = {}
    for choice in choices:
        try:
            choice.layout(item.rows, item.columns, heads=heads)
        except UsageError as error:
            reasons[choice.name] = str(error)
    return reasons


def scorable_tables(profile: ModelProfile) -> list[TableSpec]:
    """Return the tables that are read row by row and not shared with an encoder's output layer; others keep 8 bits.

    Args:
        profile: of the model.
    """
    tied = set() if profile.causal else {spec.tied_to for spec in profile.head}
    return [table for table in profile.tables if table.reads_per_token > 0 and table.module not in tied]
