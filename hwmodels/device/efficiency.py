"""The efficiency of a unit (share of its peak rate), measured at some sizes and interpolated between them."""

from __future__ import annotations

import math
from bisect import bisect_right
from itertools import pairwise, product
from typing import Annotated

from pydantic import Field, model_validator

from .fields import Count, Frozen, Share

Sizes = Annotated[tuple[Count, ...], Field(min_length=1, max_length=64)]


class EfficiencyGrid(Frozen):
    """Efficiency at every combination of some rows m, inputs k and outputs n.

    Log efficiency is interpolated linearly in the logarithms of the sizes; outside the grid the nearest point holds.

    Attributes:
        rows: sizes m, rising.
        inputs: sizes k, rising; [1] for pointwise work.
        outputs: sizes n, rising.
        efficiency: one share for each (m, k, n), the outputs running fastest.
    """

    rows: Sizes
    inputs: Sizes
    outputs: Sizes
    efficiency: Annotated[tuple[Share, ...], Field(min_length=1, max_length=20_000)]

    @model_validator(mode="after")
    def _is_a_grid(self) -> EfficiencyGrid:
        for name in ("rows", "inputs", "outputs"):
            sizes = getattr(self, name)
            if any(low >= high for low, high in pairwise(sizes)):
                raise ValueError(f"found {name} {list(sizes)}; legal are sizes that rise; sort them")
        count = len(self.rows) * len(self.inputs) * len(self.outputs)
        if len(self.efficiency) != count:
            raise ValueError(
                f"found {len(self.efficiency)} efficiencies; legal are rows x inputs x outputs = {count}; "
                "add or remove some"
            )
        return self

    def at(self, rows: int, inputs: int, outputs: int) -> float:
        """Return the efficiency of one product or pointwise operation.

        Args:
            rows: rows m of the activation.
            inputs: inputs k; 1 for pointwise work.
            outputs: outputs n.

        >>> EfficiencyGrid(rows=(1, 4), inputs=(1,), outputs=(8,), efficiency=(0.1, 0.4)).at(2, 1, 8)
        0.2
        """
        axes = ((self.rows, rows), (self.inputs, inputs), (self.outputs, outputs))
        total = 0.0
        for corner in product(*(_corners(sizes, size) for sizes, size in axes)):
            (row, row_share), (column, input_share), (output, output_share) = corner
            at = (row * len(self.inputs) + column) * len(self.outputs) + output
            total += row_share * input_share * output_share * math.log(self.efficiency[at])
        return round(math.exp(total), 15)


def _corners(sizes: tuple[int, ...], size: int) -> list[tuple[int, float]]:
    """Return the positions between which a size lies, with the share of each."""
    above = bisect_right(sizes, size)
    if above == 0 or above == len(sizes):
        return [(max(0, above - 1), 1.0)]
    low, high = sizes[above - 1], sizes[above]
    share = math.log(size / low) / math.log(high / low)
    return [(above - 1, 1 - share), (above, share)] if share else [(above - 1, 1.0)]


def efficiency_at(rows: int, by_rows: dict[int, float], default: float) -> float:
    """Return the efficiency for an activation with a number of rows, interpolated in the logarithm of the rows.

    Args:
        rows: rows m of the activation.
        by_rows: rows -> efficiency; outside its points the nearest holds.
        default: efficiency without a table.

    >>> efficiency_at(4, {1: 0.1, 16: 0.9}, 1.0)
    0.5
    """
    points = sorted(by_rows.items())
    if not points:
        return default
    for (low, low_share), (high, high_share) in pairwise(points):
        if low <= rows <= high:
            weight = math.log(rows / low) / math.log(high / low)
            return low_share + weight * (high_share - low_share)
    return points[0][1] if rows < points[0][0] else points[-1][1]
