"""Tiling: how often the operands of a product [m, k] x [k, n] cross a memory boundary of limited near capacity.

Three loop orders are compared and the one that moves the fewest bytes is used (a two-level version of the mapping
search of Timeloop, Parashar et al. 2019): a block of activation rows stays near and the weights pass once per block; a
block of weight columns stays near and the activation passes once per block; or a square block of outputs stays near in
32-bit accumulators and both operands pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_ACCUMULATOR_BYTES = 4
_DEPTH = 64  # inputs held at once where the whole depth k does not fit


@dataclass(frozen=True, slots=True)
class Passes:
    """How many times the weights and the activation cross the boundary; 1 is the minimum."""

    weight: int
    activation: int


def best_passes(m: int, k: int, n: int, *, activation_bytes: float, weight_bytes: float, capacity_bytes: int) -> Passes:
    """Return the passes that move the fewest bytes.

    Args:
        m: rows of the activation.
        k: inputs.
        n: outputs.
        activation_bytes: bytes of one activation element.
        weight_bytes: bytes of one weight on the near side, where weights are double-buffered.
        capacity_bytes: usable bytes of the near side.

    Returns:
        Passes of weights and activation.

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
