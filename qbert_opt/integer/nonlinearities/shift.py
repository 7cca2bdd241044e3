"""Shifts and additions, as in I-ViT (arXiv 2207.01405: Shiftmax, ShiftGELU and the square root).

exp: `exp(-x) = 2**-t` with `t = x log2(e)`, about `x + x / 2 - x / 16`, and `2**-(z + r) = 2**-z (1 - r / 2)`: at most
4.4e-2 off. GELU: `x sigmoid(1.6875 x)`, `1.6875 x = x + x / 2 + x / 8 + x / 16`, at most 2.6e-2 off. Units are powers
of two, so apart from requantizations GELU needs only one multiplication, by the sigmoid, and the sigmoid one division.

The published ShiftGELU subtracts the greatest input of the row before each exp. Here exp is only taken of
`-|1.6875 x|`, which is never positive, so a result does not depend on its neighbours.
"""

from __future__ import annotations

import math

from ...errors import UsageError
from ..builder import Builder, Grid
from ..nonlinearity import EXP_BITS, EXP_ONE, SCORE_TOP, Activation
from ..operations import Shift, SquareRoot, Value
from .poly import tanh

INPUT_BITS = 15
SQUARE_ROOT_START, SQUARE_ROOT_STEPS = 1 << 16, 10
FINEST_BITS = EXP_BITS - 1  # of a unit: `2 - r` of the exp then has at most 15 bits after the point


def activation(
    builder: Builder, name: str, function: Activation, x: Value, span: tuple[float, float], to: Grid
) -> Value:
    """Compute GELU with a sigmoid, both in shifts; tanh with the same exp."""
    q = builder.requantize(f"{name}.input", x, _grid(max(-span[0], span[1]), 2 ** (INPUT_BITS - 1) - 1))
    if function == "tanh":
        return tanh(builder, name, exponential, q, to)
    size = builder.magnitude(f"{name}.size", q)
    falling = exponential(builder, f"{name}.exp", _sum_of_shifts(builder, f"{name}.gate", size, (1, 3, 4)))
    right = builder.saturate(f"{name}.right", q, 0, 1)
    one = builder.binary("multiply", f"{name}.one", right, EXP_ONE)
    share = builder.binary("maximum", f"{name}.share", falling, one)
    numerator = builder.binary("multiply", f"{name}.numerator", share, EXP_ONE)
    divisor = builder.binary("add", f"{name}.divisor", falling, EXP_ONE)
    sigmoid = builder.binary("divide", f"{name}.sigmoid", numerator, divisor)
    product = builder.binary("multiply", f"{name}.product", q, sigmoid, scale=float(builder.scale_of(q)) / EXP_ONE)
    return builder.requantize(name, product, to)


def score_grid(largest: float) -> Grid:
    """Return the grid of 16 bits for the calibrated scores, in units of the least power of two that holds them."""
    return _grid(largest, SCORE_TOP)


def exponential(builder: Builder, name: str, below: Value) -> Value:
    """Split `x log2(e)` into an integer, the number of halvings, and a fraction, both by shifting."""
    bits = -round(math.log2(float(builder.scale_of(below))))
    binary = _sum_of_shifts(builder, f"{name}.binary", below, (1,), minus=4)
    binary = builder.binary("maximum", f"{name}.positive", binary, 0)  # it is, but the interval analysis cannot know
    whole = builder.shift(f"{name}.whole", binary, bits)
    rest = builder.binary("remainder", f"{name}.rest", binary, 1 << bits)
    line = builder.binary("subtract", f"{name}.line", 2 << bits, rest)
    wide = builder.binary("multiply", f"{name}.wide", line, 1 << (FINEST_BITS - bits))
    halvings = builder.binary("minimum", f"{name}.halvings", whole, EXP_BITS + 1)
    return builder.emit(Shift, name, below.shape, scale=1 / EXP_ONE, a=wide.name, by=halvings.name)


def square_root(builder: Builder, name: str, a: Value) -> Value:
    """Take ten Newton steps from 2**16, whatever the number."""
    return builder.emit(SquareRoot, name, a.shape, a=a.name, start=SQUARE_ROOT_START, steps=SQUARE_ROOT_STEPS)


def _grid(largest: float, top: int) -> Grid:
    bits = min(math.floor(math.log2(top / max(largest, top * 2.0**-FINEST_BITS))), FINEST_BITS)
    if bits < 1:
        raise UsageError(f"`nonlinearity` shift: its inputs reach {largest:.3g}; legal is up to {top / 2:.3g}. "
                         "Use table.")  # fmt: skip
    return Grid(2.0**-bits, -top, top)


def _sum_of_shifts(builder: Builder, name: str, x: Value, plus: tuple[int, ...], minus: int | None = None) -> Value:
    """Return x plus `x / 2**by` for each `by` in `plus`, less `x / 2**minus`, each quotient rounded down."""
    total = x
    for by in plus:
        part = builder.shift(f"{name}.{by}", x, by)
        total = builder.binary("add", f"{name}.to_{by}", total, part, scale=x.scale)
    if minus is None:
        return total
    part = builder.shift(f"{name}.{minus}", x, minus)
    return builder.binary("subtract", f"{name}.to_{minus}", total, part, scale=x.scale)
