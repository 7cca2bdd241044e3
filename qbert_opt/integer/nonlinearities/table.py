"""Tables: one of 256 entries for a function of 8 bits, two of 256 entries for exp and for a function of 16 bits.

The only error of an 8-bit function is the rounding of its input and output. A 16-bit function is interpolated linearly
in 256 intervals. `exp(-n u)` for n of 16 bits is the product of two entries of 15 bits, `exp(-256 (n >> 8) u)` and
`exp(-(n & 255) u)`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..builder import Builder, Grid
from ..intervals import NEWTON_STEPS
from ..nonlinearity import ACTIVATIONS, EXP_BITS, EXP_ONE, SCORE_TOP, Activation
from ..operations import SquareRoot, Value

ENTRIES = 256
SPAN_POINTS = 4096


def activation(
    builder: Builder, name: str, function: Activation, x: Value, span: tuple[float, float], to: Grid
) -> Value:
    """Look the function up by 8 bits of x, or interpolate it by 16 bits of x if the result has 16."""
    bits = 8 if to.high - to.low < ENTRIES else 16
    grid = Grid.spanning(*useful_span(function, span, to), bits)
    index = builder.requantize(f"{name}.input", x, grid)
    if bits == 8:
        return builder.lookup(name, _entries(function, np.arange(grid.low, grid.high + 1), grid, to), index, to)
    return _interpolated(builder, name, function, index, grid, to)


def useful_span(function: Activation, span: tuple[float, float], to: Grid) -> tuple[float, float]:
    """Return the part of a span outside which the rounded result no longer changes.

    Args:
        function: name of the function.
        span: least and greatest input.
        to: grid of the result.
    """
    points = np.linspace(*span, SPAN_POINTS)
    codes = np.round(ACTIVATIONS[function](points) / to.scale)
    [changes] = np.nonzero(np.diff(codes))
    if not len(changes):
        return span
    return float(points[changes[0]]), float(points[changes[-1] + 1])


def score_grid(largest: float) -> Grid:
    """Return a grid whose 16 bits the calibrated scores use fully."""
    return Grid(largest / SCORE_TOP, -SCORE_TOP, SCORE_TOP)


def exponential(builder: Builder, name: str, below: Value) -> Value:
    """Multiply two table entries, for the high and the low 8 bits."""
    unit = float(builder.scale_of(below))
    high = builder.shift(f"{name}.high", below, 8)
    low = builder.binary("remainder", f"{name}.low", below, ENTRIES)
    coarse = builder.lookup(f"{name}.coarse", _falling(unit * ENTRIES, high.high + 1), high)
    fine = builder.lookup(f"{name}.fine", _falling(unit, ENTRIES), low)
    product = builder.binary("multiply", f"{name}.product", coarse, fine, scale=1 / EXP_ONE**2)
    return builder.saturate(name, product, 0, EXP_ONE, EXP_BITS)


def square_root(builder: Builder, name: str, a: Value) -> Value:
    """Iterate Newton's method to the exact floor: a table for 32-bit numbers would not be small."""
    return builder.emit(SquareRoot, name, a.shape, a=a.name, start=None, steps=NEWTON_STEPS)


def _entries(function: Activation, codes: NDArray[np.int64], grid: Grid, to: Grid) -> NDArray[np.int16]:
    reals = np.asarray(grid.scale * (codes - grid.zero), np.float64)
    exact = ACTIVATIONS[function](reals) / to.scale + to.zero
    return np.clip(np.floor(exact + 0.5), to.low, to.high).astype(np.int16)


def _falling(unit: float, entries: int) -> NDArray[np.int32]:
    exact: NDArray[np.float64] = np.exp(-unit * np.arange(entries)) * EXP_ONE
    return np.floor(exact + 0.5).astype(np.int32)


def _interpolated(builder: Builder, name: str, function: Activation, index: Value, grid: Grid, to: Grid) -> Value:
    """Interpolate between 257 points; entries are relative to the zero point of the result."""
    points = np.arange(grid.low, grid.high + ENTRIES + 1, ENTRIES)
    ends = _entries(function, points, grid, to).astype(np.int32) - to.zero
    offset = builder.binary("subtract", f"{name}.offset", index, grid.low)
    high = builder.shift(f"{name}.high", offset, 8)
    low = builder.binary("remainder", f"{name}.low", offset, ENTRIES)
    start = builder.lookup(f"{name}.start", ends[:-1] * ENTRIES, high)
    step = builder.lookup(f"{name}.step", np.diff(ends), high)
    part = builder.binary("multiply", f"{name}.part", step, low)
    exact = builder.binary("add", f"{name}.exact", start, part, scale=to.scale / ENTRIES)
    return builder.requantize(name, exact, to)
