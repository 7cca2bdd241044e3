"""Second-order polynomials, as in I-BERT (arXiv 2101.01321, equations 8 to 14).

exp: with `z = floor(x / ln 2)` and `p = -(x mod ln 2)`, `exp(-x) = 2**-z * (0.358 p**2 + 0.970 p + 1)`, computed as
`a (p + b)**2 + c`, at most 1.9e-3 off, and 2.4e-3 in integers for scores up to 30. GELU: `x / 2 * (1 + L(x / sqrt 2))`
with `L(x) = sgn(x) (1 - 0.2888 (min(|x|, 1.769) - 1.769)**2)`, at most 1.84e-2 off. tanh: `sgn(x) (1 - e) / (1 + e)`
with `e = exp(-2 |x|)`.

The published code rounds constants down and shifts exp left by 30 bits, which overflows 32. Here constants are rounded
to the nearest, and every step is scaled so that 32 bits hold it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ...errors import UsageError
from ..builder import Builder, Grid
from ..intervals import NEWTON_STEPS
from ..nonlinearity import EXP_ONE, SCORE_TOP, Activation
from ..operations import Shift, SquareRoot, Value

EXP_A = 0.35815147
EXP_B = 0.96963238 / (2 * EXP_A)  # 1.353
EXP_C = 1 - EXP_A * EXP_B**2  # 0.344: exp(0) is 1
ERF_A, ERF_B = -0.2888, -1.769
INPUT_BITS = 15
SMALLEST_LARGEST = 2.0  # the grid of inputs reaches at least this: finer units would make squares overflow
NO_LARGER = 6.0  # GELU(-6) is -6e-9, so inputs below -6 may saturate
FINEST_SCORES = 2.0**-13
COARSEST_SCORES = math.log(2) / 8
Exponential = Callable[[Builder, str, Value], Value]


def activation(
    builder: Builder, name: str, function: Activation, x: Value, span: tuple[float, float], to: Grid
) -> Value:
    """Compute GELU with the polynomial for erf, tanh with the one for exp."""
    largest = max(min(-span[0], NO_LARGER), span[1], SMALLEST_LARGEST)
    grid = Grid.symmetric(largest, INPUT_BITS)
    q = builder.requantize(f"{name}.input", x, grid)
    if function == "tanh":
        return tanh(builder, name, exponential, q, to)
    size, sign = builder.magnitude(f"{name}.size", q), builder.sign(f"{name}.sign", q)
    unit = grid.scale / math.sqrt(2)
    edge = round(-ERF_B / unit)
    inside = builder.binary("minimum", f"{name}.inside", size, edge)
    from_edge = builder.binary("subtract", f"{name}.from_edge", inside, edge)
    square = builder.binary("multiply", f"{name}.square", from_edge, from_edge, scale=-ERF_A * unit**2)
    short = builder.requantize(f"{name}.short", square, Grid(1 / EXP_ONE, 0, EXP_ONE))
    erf_size = builder.binary("subtract", f"{name}.erf_size", EXP_ONE, short)
    erf = builder.binary("multiply", f"{name}.erf", erf_size, sign)
    gate = builder.binary("add", f"{name}.gate", erf, EXP_ONE, scale=1 / (2 * EXP_ONE))
    product = builder.binary("multiply", f"{name}.product", q, gate, scale=grid.scale / (2 * EXP_ONE))
    return builder.requantize(name, product, to)


def tanh(builder: Builder, name: str, exponential_of: Exponential, q: Value, to: Grid) -> Value:
    """Return `sgn(q) (1 - e) / (1 + e)` with `e = exp(-2 |q|)`, on another grid.

    Args:
        builder: builder of the program.
        name: name of the result.
        exponential_of: adds `exp(-n unit)` for integers n of at least 0, on the scale `1 / EXP_ONE`.
        q: the input.
        to: grid of the result.
    """
    twice = builder.binary("multiply", f"{name}.twice", builder.magnitude(f"{name}.size", q), 2, scale=q.scale)
    falling = exponential_of(builder, f"{name}.exp", twice)
    above = builder.binary("subtract", f"{name}.above", EXP_ONE, falling)
    numerator = builder.binary("multiply", f"{name}.numerator", above, EXP_ONE)
    divisor = builder.binary("add", f"{name}.divisor", falling, EXP_ONE)
    ratio = builder.binary("divide", f"{name}.ratio", numerator, divisor)
    signed = builder.binary("multiply", f"{name}.signed", ratio, builder.sign(f"{name}.sign", q), scale=1 / EXP_ONE)
    return builder.requantize(name, signed, to)


def score_grid(largest: float) -> Grid:
    """Return a grid whose 16 bits the calibrated scores use fully, unless its unit would be below `FINEST_SCORES`."""
    return Grid(max(largest / SCORE_TOP, FINEST_SCORES), -SCORE_TOP, SCORE_TOP)


def exponential(builder: Builder, name: str, below: Value) -> Value:
    """Evaluate the polynomial on the remainder and shift by the quotient.

    Raises:
        UsageError: the unit of the scores is too coarse for the polynomial.
    """
    unit = float(builder.scale_of(below))
    if unit > COARSEST_SCORES:
        raise UsageError(f"`nonlinearity` poly: attention scores reach {unit * SCORE_TOP:.3g}; legal is up to "
                         f"{COARSEST_SCORES * SCORE_TOP:.3g}. Use table.")  # fmt: skip
    halving = round(math.log(2) / unit)
    quotient = builder.binary("divide", f"{name}.quotient", below, halving)
    rest = builder.binary("remainder", f"{name}.rest", below, halving)
    from_b = builder.binary("subtract", f"{name}.from_b", round(EXP_B / unit), rest)
    square = builder.binary("multiply", f"{name}.square", from_b, from_b)
    scale = EXP_A * unit**2
    polynomial = builder.binary("add", f"{name}.polynomial", square, round(EXP_C / scale), scale=scale)
    halvings = builder.binary("minimum", f"{name}.halvings", quotient, 31)
    halved = builder.emit(Shift, f"{name}.halved", below.shape, scale=scale, a=polynomial.name, by=halvings.name)
    return builder.requantize(name, halved, Grid(1 / EXP_ONE, 0, EXP_ONE))


def square_root(builder: Builder, name: str, a: Value) -> Value:
    """Iterate Newton's method from the power of two above the root: five steps give the exact floor."""
    return builder.emit(SquareRoot, name, a.shape, a=a.name, start=None, steps=NEWTON_STEPS)
