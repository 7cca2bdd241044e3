"""How often a product [m, k] x [k, n] crosses a memory boundary when the near side holds only so much.

Three ways to cut the work, each of which keeps something near; the cheapest is taken (a two-level version
of the mapping search of Timeloop, Parashar et al. 2019): rows of the activation stay and the weights pass
once per block of rows; columns of the weights stay and the activation passes once per block; or a square
block of outputs stays in 32-bit accumulators and both pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_ACCUMULATOR_BYTES = 4
_DEPTH = 64  # inputs held at once where the whole depth k does not fit


@dataclass(frozen=True, slots=True)
class Passes:
    """How often the weights and the activation cross the boundary, 1 where each crosses once."""

    weight: int
    activation: int


def best_passes(m: int, k: int, n: int, *, activation_bytes: float, weight_bytes: float, capacity_bytes: int) -> Passes:
    """Return the passes that move the fewest bytes.

    Args:
        m: rows of the activation.
        k: inputs.
        n: outputs.
        activation_bytes: bytes of one activation element.
        weight_bytes: bytes of one weight on the near side; weights are double-buffered there.
        capacity_bytes: bytes that the near side may fill.

    >>> best_passes(128, 768, 768, activation_bytes=1, weight_bytes=1, capacity_bytes=400_000)
    Passes(weight=1, activation=1)
    """
    row, column = k * activation_bytes, 2 * k * weight_bytes
    ways = []
    rows = int((capacity_bytes - column) / (row + _ACCUMULATOR_BYTES))  # rows kept beside one column in flight
    if rows >= 1:
        ways.append(Passes(math.ceil(m / rows), 1))
    columns = int((capacity_bytes - row) / (column + _ACCUMULATOR_BYTES))  # columns kept beside one row in flight
    if columns >= 1:
        ways.append(Passes(1, math.ceil(n / columns)))
    ways.append(_square(m, n, 2 * _DEPTH * (activation_bytes + weight_bytes), capacity_bytes))
    return min(ways, key=lambda way: way.weight * n * k * weight_bytes + way.activation * m * k * activation_bytes)


def _square(m: int, n: int, side_bytes: float, capacity_bytes: int) -> Passes:
    """Largest t with 4 t^2 + side t <= capacity, one output at the least."""
    root = math.sqrt(side_bytes**2 + 4 * _ACCUMULATOR_BYTES * capacity_bytes)
    side = max(1, int((root - side_bytes) / (2 * _ACCUMULATOR_BYTES)))
    return Passes(math.ceil(m / side), math.ceil(n / side))
