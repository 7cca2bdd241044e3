"""A plan laid out as a grid of encoder layers × matrices, as figures and reports draw it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


class Placed(Protocol):
    """Anything with a place in the model."""

    @property
    def kind(self) -> str:
        """Role in its block."""

    @property
    def block(self) -> int:
        """Encoder layer, from 0."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Encoder layers by matrices.

    Attributes:
        blocks: encoder layers, in order; the grid's rows.
        columns: (role, its number among the matrices of that role in the layer, from 0).
        cells: index of a matrix -> (row, column).
    """

    blocks: tuple[int, ...]
    columns: tuple[tuple[str, int], ...]
    cells: Mapping[int, tuple[int, int]]

    def title(self, column: int, titles: Mapping[str, str]) -> str:
        """Return the heading of a column; numbered if any layer has several matrices of that role.

        Args:
            column: index into `columns`.
            titles: heading of each role; a role that is not here is its own heading.
        """
        kind, number = self.columns[column]
        return titles.get(kind, kind) + (f" {number + 1}" if (kind, 1) in self.columns else "")


def grid_of(matrices: Sequence[Placed]) -> Grid:
    """Lay out matrices in a grid.

    Args:
        matrices: with role and encoder layer, in order of execution.
    """
    seen: Counter[tuple[int, str]] = Counter()
    keys = []
    for matrix in matrices:
        keys.append((matrix.kind, seen[(matrix.block, matrix.kind)]))
        seen[(matrix.block, matrix.kind)] += 1
    kinds = list(dict.fromkeys(kind for kind, _ in keys))
    columns = tuple(sorted(dict.fromkeys(keys), key=lambda key: (kinds.index(key[0]), key[1])))
    blocks = tuple(sorted({matrix.block for matrix in matrices}))
    row_of, column_of = {b: i for i, b in enumerate(blocks)}, {key: j for j, key in enumerate(columns)}
    cells = {
        index: (row_of[matrix.block], column_of[key])
        for index, (matrix, key) in enumerate(zip(matrices, keys, strict=True))
    }
    return Grid(blocks, columns, cells)
