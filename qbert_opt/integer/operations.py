"""The operations of integer-only programs, with their exact meaning.

Each operation computes one value from named values and constants; the value never changes afterwards (SSA form). All
numbers are integers. These rules hold everywhere, and every executor must agree bit for bit:

- A value lies in its proven interval `[low, high]`, inside 32 bits. So no sum, product or accumulator ever wraps. Only
  two products are wider: the one inside `Requantize` and, in a `Linear` with a shift, a group's sum times its factor.
  For both, `|a * m| + 2**(e - 1) < 2**62`.
- `floor(a / 2**e)` rounds towards minus infinity, also for negative `a` (an arithmetic shift).
- Rounding is half up: `round_shift(a, e) = floor((a + 2**(e - 1)) / 2**e)`, and `a` itself for `e = 0`. So -1.5 becomes
  -1 and 1.5 becomes 2. In C and ONNX, division rounds towards zero, so both are computed from non-negative numbers:
  `floor(a / 2**e) = (a + k * 2**e) / 2**e - k` for any `k` with `a + k * 2**e >= 0`.
- Divisions have a dividend of at least 0 and a divisor of at least 1.
- Two operands have the same shape, or one of them has size 1 on the last axis, lacks leading axes of the other, or is a
  constant vector along the last axis or a constant scalar.

In shapes, `batch` and `tokens` are symbolic sizes; all others are numbers. Padding comes after the real tokens and
changes no value at a real token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

BATCH: Final = "batch"
TOKENS: Final = "tokens"
IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
INT32 = 2**31 - 1
PRODUCT_LIMIT = 2**62  # for a requantization's product plus its rounding term; leaves room to shift by division

Axis = Literal["batch", "tokens"] | int


def width(low: int, high: int) -> int:
    """Return the bits of the narrowest two's complement integer that holds every number of an interval.

    Args:
        low: least number of the interval.
        high: greatest number of the interval.

    >>> width(-128, 127), width(0, 255), width(0, 0)
    (8, 9, 1)
    """
    return max((low if low >= 0 else ~low).bit_length(), (high if high >= 0 else ~high).bit_length()) + 1


@dataclass(frozen=True, slots=True)
class Value:
    """An input of a program, or the result of one operation.

    Attributes:
        name: name, unique among the values and constants of the program.
        shape: sizes of its axes.
        low: least number that it can hold, for any input.
        high: greatest number that it can hold, for any input.
        scale: the real number that one unit stands for; None if it differs along an axis. Executors do not read it.
        zero: the integer that stands for 0 (zero point).
    """

    name: str
    shape: tuple[Axis, ...]
    low: int
    high: int
    scale: float | None = None
    zero: int = 0

    @property
    def width(self) -> int:
        """Bits that the value needs in two's complement."""
        return width(self.low, self.high)


@dataclass(frozen=True, slots=True)
class Operation:
    """One step. `OPERANDS` lists the fields that name a value or constant; an optional operand can be None."""

    OPERANDS: ClassVar[tuple[str, ...]] = ()
    output: Value

    @property
    def operands(self) -> tuple[str, ...]:
        """Names of the values and constants that it reads."""
        names = (getattr(self, field) for field in self.OPERANDS)
        return tuple(name for name in names if name is not None)


@dataclass(frozen=True, slots=True)
class Positions(Operation):
    """Position of each token, `[batch, tokens]`.

    If `padding` is None, `y[b, t] = t`. Otherwise, as in RoBERTa and MPNet:
    `y[b, t] = padding + (ids[b, t] != padding) * sum(ids[b, s] != padding for s <= t)`.
    """

    OPERANDS: ClassVar[tuple[str, ...]] = ("ids",)
    ids: str
    padding: int | None


@dataclass(frozen=True, slots=True)
class Embed(Operation):
    """Rows of a quantized table, `[batch, tokens, columns]`.

    `y[b, t, c] = round_shift(codes[i, c] * factors[i, g] + offsets[i, g], shift)` with `i = index[b, t]` and
    `g = floor(c / (columns / groups))`. `codes` is `[rows, columns]`; `factors` and `offsets` are int32
    `[rows, groups]`.
    """

    OPERANDS: ClassVar[tuple[str, ...]] = ("codes", "factors", "offsets", "index")
    codes: str
    factors: str
    offsets: str
    index: str
    shift: int


@dataclass(frozen=True, slots=True)
class Relative(Operation):
    """A table entry for each distance of two tokens, `[heads, tokens, tokens]`: `y[h, i, j] = table[h, j - i + n]`.

    `table` is int32 `[heads, 2 * n + 1]`, with `n = max_tokens - 1`.
    """

    OPERANDS: ClassVar[tuple[str, ...]] = ("table",)
    table: str


@dataclass(frozen=True, slots=True)
class Linear(Operation):
    """The product with a matrix of integer codes, `[..., rows]` from `x [..., columns]`.

    `y[r] = sum over g of round_shift(factors[r, g] * A[r, g] + sums[r, g] * X[g], shift) + bias[r]`, where group g is
    the g-th of equal ranges of columns, `A[r, g] = sum over c in g of weights[r, c] * x[c]` and
    `X[g] = sum over c in g of x[c]`.

    `weights` is int8 `[rows, columns]`. `factors` (None: one group and 1) and `sums` (None: 0) are int32
    `[rows, groups]`, `bias` (None: 0) is int32 `[rows]`. Every partial sum is proven to fit 32 bits, in any order. If
    `shift` is not 0, the number that is shifted has 64 bits, like the product inside a requantization.
    """

    OPERANDS: ClassVar[tuple[str, ...]] = ("x", "weights", "factors", "sums", "bias")
    x: str
    weights: str
    factors: str | None = None
    sums: str | None = None
    bias: str | None = None
    shift: int = 0


@dataclass(frozen=True, slots=True)
class MatMul(Operation):
    """The product of two values over the last two axes: `a @ b`, or `a @ b.T` if `transposed`."""

    OPERANDS: ClassVar[tuple[str, ...]] = ("a", "b")
    a: str
    b: str
    transposed: bool


Function = Literal["add", "subtract", "multiply", "divide", "remainder", "maximum", "minimum"]


@dataclass(frozen=True, slots=True)
class Binary(Operation):
    """Arithmetic on two operands, element by element.

    `a + b`, `a - b`, `a * b`, `max(a, b)` or `min(a, b)`; and, only for a >= 0 and b >= 1, `floor(a / b)` (divide) or
    `a - b * floor(a / b)` (remainder).
    """

    OPERANDS: ClassVar[tuple[str, ...]] = ("a", "b")
    function: Function
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class Requantize(Operation):
    """Convert to another scale, saturating: `y = min(max(round_shift(a * multiplier, shift) + zero, low), high)`.

    `zero`, `low` and `high` are the output's. `multiplier` is an int32 constant, scalar or one per element of the last
    axis, or a value of size 1 on the last axis. The product has 64 bits. With `multiplier` 1 and `shift` 0 the
    operation only adds the zero point and saturates.
    """

    OPERANDS: ClassVar[tuple[str, ...]] = ("a", "multiplier")
    a: str
    multiplier: str
    shift: int


@dataclass(frozen=True, slots=True)
class Shift(Operation):
    """`y = floor(a / 2**by)`; `by` is a constant scalar or a value of the same shape as `a`, from 0 to 31."""

    OPERANDS: ClassVar[tuple[str, ...]] = ("a", "by")
    a: str
    by: str


@dataclass(frozen=True, slots=True)
class Lookup(Operation):
    """`y = table[a - start]`; every index is inside the one-dimensional table."""

    OPERANDS: ClassVar[tuple[str, ...]] = ("table", "a")
    table: str
    a: str
    start: int


@dataclass(frozen=True, slots=True)
class Reduce(Operation):
    """The maximum or the sum over the last axis, whose size becomes 1."""

    OPERANDS: ClassVar[tuple[str, ...]] = ("a",)
    function: Literal["max", "sum"]
    a: str


@dataclass(frozen=True, slots=True)
class Mask(Operation):
    """`y[b, ..., t] = a[b, ..., t]` where `mask[b, t]` is not 0, else `fill`; `t` runs along the last axis."""

    OPERANDS: ClassVar[tuple[str, ...]] = ("a", "mask")
    a: str
    mask: str
    fill: int


@dataclass(frozen=True, slots=True)
class SquareRoot(Operation):
    """Newton's square root of `a >= 1`: from x, `steps` times `x = min(x, floor((x + floor(a / x)) / 2))`.

    It starts at `start` or, if that is None, at `2**ceil(bits(a) / 2)`, the least power of two above the root, where
    `bits` counts binary digits; five steps from there give `floor(sqrt(a))` exactly for every `a < 2**31`.
    """

    OPERANDS: ClassVar[tuple[str, ...]] = ("a",)
    a: str
    start: int | None
    steps: int


@dataclass(frozen=True, slots=True)
class Rearrange(Operation):
    """Move numbers without changing them.

    `split`: `[batch, tokens, heads * d]` to `[batch, heads, tokens, d]`; `merge`: back; `first`: the first token,
    `[batch, tokens, n]` to `[batch, n]`.
    """

    OPERANDS: ClassVar[tuple[str, ...]] = ("a",)
    how: Literal["split", "merge", "first"]
    a: str


KINDS: Mapping[str, type[Operation]] = {
    kind.__name__: kind
    for kind in (
        Positions, Embed, Relative, Linear, MatMul, Binary, Requantize, Shift, Lookup, Reduce, Mask, SquareRoot,
        Rearrange,
    )
}  # fmt: skip
