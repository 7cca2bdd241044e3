"""A table of scores in one line."""

from __future__ import annotations

from ..spec.scores import ScoreTable
from .printing import origin


def scores_summary(table: ScoreTable) -> str:
    """Return one line that says which model a table of scores is for, and how it was computed.

    Args:
        table: the scores.
    """
    return (
        f"{len(table.profile.matrices)} matrices × {len(table.choices)} choices of {table.profile.name} "
        f"({table.profile.architecture}, sha256 {table.profile.sha256[:12]}…), {origin(table, table.provenance)}"
    )
