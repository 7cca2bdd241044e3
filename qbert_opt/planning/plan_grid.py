"""A plan as a grid of encoder layers by matrices: what every picture of it shares."""

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
        columns: (role, how manieth of that role in its layer); a layer may have several of one role.
        cells: index of a matrix -> (row, column).
    """

    blocks: tuple[int, ...]
    columns: tuple[tuple[str, int], ...]
    cells: Mapping[int, tuple[int, int]]

    def title(self, column: int, titles: Mapping[str, str]) -> str:
        """Heading of a column."""
        kind, number = self.columns[column]
        return titles.get(kind, kind) + (f" {number + 1}" if (kind, 1) in self.columns else "")


def grid_of(matrices: Sequence[Placed]) -> Grid:
    """Lay matrices out."""
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
