"""The scored choice whose loss stands in for one that was not scored."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputFileError, UsageError
from ..spec.choices import Choice
from ..spec.scores import ScoreTable

if TYPE_CHECKING:
    pass


def nearest_scored(scores: ScoreTable, row: int, choice: Choice, where: str) -> int:
    """Return the column of a choice, or of the nearest scored one: the same bits, the nearest number of groups.

    Args:
        scores: predicted losses.
        row: place of the matrix in the table.
        choice: how the matrix is stored.
        where: what an error names as its place.

    Raises:
        InputFileError: no choice of these bits was scored, or the matrix cannot have the choice.
    """
    grid, matrix, legal = scores.grid(), scores.profile.matrices[row], np.isfinite(scores.values()[row])
    if choice.name in scores.choices and legal[scores.choices.index(choice.name)]:
        return scores.choices.index(choice.name)
    columns = [j for j, c in enumerate(grid) if c.bits == choice.bits and legal[j]]
    if not columns:
        scored = sorted({c.bits for c in grid})
        raise InputFileError(
            f"{where}: {choice.bits} bits were not scored. Scored: {', '.join(map(str, scored))}. "
            f"Score again with `bits` {','.join(map(str, sorted({*scored, choice.bits})))}."
        )

    def groups(c: Choice) -> int:
        return c.layout(matrix.rows, matrix.columns, heads=scores.profile.heads_of(matrix)).num_groups

    def distance(column: int) -> tuple[bool, float, bool]:
        other = grid[column]
        same_axis = other.grouping.partition(":")[0] == choice.grouping.partition(":")[0]
        return not same_axis, abs(math.log2(groups(other) / groups(choice))), other.form != choice.form

    try:
        return min(columns, key=distance)
    except UsageError as error:
        raise InputFileError(f"{where}: {error}") from None
