"""The builder of programs: it proves the interval of each operation as it adds it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import UsageError
from .intervals import Operands, interval_of
from .operations import (
    INT32,
    PRODUCT_LIMIT,
    Axis,
    Binary,
    Function,
    Linear,
    Lookup,
    Mask,
    MatMul,
    Operation,
    Rearrange,
    Reduce,
    Requantize,
    Shift,
    Value,
)
from .program import Output, Program

MULTIPLIER_BITS = 31
Kind = TypeVar("Kind", bound=Operation)


@dataclass(frozen=True, slots=True)
class Grid:
    """Integers that stand for real numbers: `scale * (q - zero)`, with q from `low` to `high`."""

    scale: float
    low: int
    high: int
    zero: int = 0

    @classmethod
    def symmetric(cls, largest: float, bits: int) -> Grid:
        """Return the grid of `bits`-bit signed integers, without the lowest one, for magnitudes up to `largest`."""
        top = 2 ** (bits - 1) - 1
        return cls(max(largest, SMALLEST_RANGE) / top, -top, top)

    @classmethod
    def spanning(cls, low: float, high: float, bits: int) -> Grid:
        """Return the grid of `bits`-bit signed integers from `low` to `high`, extended to represent zero exactly.

        Its codes are those of `quantization.activation_quant.round_activations`, less `2**(bits - 1)`.
        """
        low, high, half = min(low, 0.0), max(high, 0.0), 2 ** (bits - 1)
        scale = max((high - low) / (2 * half - 1), SMALLEST_RANGE)
        return cls(scale, -half, half - 1, round(-low / scale) - half)


SMALLEST_RANGE = 1e-12


def dyadic(ratios: ArrayLike, largest: int, name: str) -> tuple[NDArray[np.int32], int]:
    """Return integers m and a shift e with `ratios` approximately `m / 2**e`.

    The largest m has 31 bits, or fewer if its product with `largest` would not fit 62 bits or e would exceed 62. With
    31 bits, a product is off by at most `2**-31` of the largest possible product, besides the rounding of the shift.

    Args:
        ratios: real factors, of any sign and shape.
        largest: greatest magnitude that is multiplied.
        name: name of the value, for messages.

    Raises:
        UsageError: all ratios are 0, or one is not finite or too large.
    """
    exact = np.asarray(ratios, np.float64)
    top = float(np.abs(exact).max())
    if not 0 < top < 2.0**MULTIPLIER_BITS:
        raise UsageError(f"{name}: its scale is {top:g}; integers need one above 0 and below 2**{MULTIPLIER_BITS}.")
    shift = min(MULTIPLIER_BITS - 1 - math.floor(math.log2(top)), 62)
    while True:
        multipliers = np.floor(exact * 2.0**shift + 0.5)
        most = int(np.abs(multipliers).max())
        if most <= INT32 and most * max(largest, 1) + (1 << shift >> 1) < PRODUCT_LIMIT:
            return multipliers.astype(np.int32), shift
        shift -= 1
        if shift < 0:
            raise UsageError(f"{name}: its scale is {top:g}, too large for a 32-bit multiplier.")


class Builder:
    """Builds a program, operation by operation.

    Args:
        inputs: token arrays.
        max_tokens: tokens of the longest sample, for which intervals are proven.
    """

    def __init__(self, inputs: tuple[Value, ...], max_tokens: int) -> None:
        self.inputs, self.max_tokens = inputs, max_tokens
        self.operations: list[Operation] = []
        self.values = {value.name: value for value in inputs}
        self.constants: dict[str, NDArray[Any]] = {}
        self.scales: dict[str, NDArray[np.float64]] = {}
        self.rounding = 0.0  # largest error of a requantization, in units of its result, because its factor is m / 2**e

    def finish(self, outputs: tuple[Output, ...]) -> Program:
        """Return the program, without operations and constants that its outputs do not depend on.

        Args:
            outputs: outputs of the model.
        """
        needed = {output.value for output in outputs}
        kept = []
        for operation in reversed(self.operations):
            if operation.output.name in needed:
                kept.append(operation)
                needed |= set(operation.operands)
        constants = {name: array for name, array in self.constants.items() if name in needed}
        return Program(self.inputs, tuple(reversed(kept)), constants, outputs, self.max_tokens)

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """Add a constant and return its name; raise ValueError if the name is taken."""
        if name in self.constants or name in self.values:
            raise ValueError(f"{name} is in the program already")
        self.constants[name] = array
        return name

    def number(self, value: int) -> str:
        """Return the name of a scalar constant; equal ones share it."""
        name = f"number.{value}"
        self.constants.setdefault(name, np.array(value, np.int32))
        return name

    @property
    def operands(self) -> Operands:
        """What operations can read so far."""
        return Operands(self.values, self.constants, self.max_tokens)

    def emit(
        self,
        kind: type[Kind],
        name: str,
        shape: tuple[Axis, ...],
        *,
        scale: float | None = None,
        zero: int = 0,
        bounds: tuple[int, int] = (-INT32 - 1, INT32),
        **fields: Any,
    ) -> Value:
        """Add an operation and return its output.

        Args:
            kind: class of the operation.
            name: name of its output.
            shape: shape of its output.
            scale: real number that one unit of its output stands for.
            zero: the integer of its output that stands for 0.
            bounds: least and greatest number of a `Requantize`, which saturates there.
            **fields: the operation's other fields.

        Raises:
            OverflowFound: it needs more than 32 bits for some input.
            ValueError: the name is taken.
        """
        if name in self.values or name in self.constants:
            raise ValueError(f"{name} is in the program already")
        loose = kind(output=Value(name, shape, *bounds, scale, zero), **fields)
        proven = interval_of(loose, self.operands)
        value = Value(name, shape, *proven, scale, zero)
        if kind is Requantize:
            value = Value(name, shape, *bounds, scale, zero)
        self.operations.append(kind(output=value, **fields))
        self.values[name] = value
        return value

    def scale_of(self, value: Value) -> NDArray[np.float64]:
        """Return the real number that one unit stands for, a scalar or one per element of the last axis."""
        if value.name in self.scales:
            return self.scales[value.name]
        if value.scale is None:
            raise ValueError(f"{value.name} has no scale")
        return np.asarray(value.scale, np.float64)

    def requantize(self, name: str, a: Value, to: Grid) -> Value:
        """Convert a value whose zero point is 0 to another grid, saturating at the grid's ends."""
        if a.zero:
            raise ValueError(f"{a.name} has zero point {a.zero}")
        return self.rescale(name, a, self.scale_of(a) / to.scale, to)

    def rescale(self, name: str, a: Value, ratios: ArrayLike, to: Grid) -> Value:
        """Multiply by a real number, or by one per element of the last axis, and saturate at the ends of a grid.

        Args:
            name: name of the result.
            a: the value to multiply.
            ratios: units of the result per unit of `a`, a scalar or one per element of the last axis.
            to: grid of the result.

        Raises:
            UsageError: the ratios cannot be written as integers over a power of two; see `dyadic`.
        """
        largest = max(-a.low, a.high)
        multipliers, shift = dyadic(ratios, largest, name)
        off = float(np.abs(np.asarray(ratios) - multipliers * 2.0**-shift).max())
        self.rounding = max(self.rounding, off * largest)
        multiplier = self.number(int(multipliers)) if multipliers.ndim == 0 else self.constant(f"{name}.m", multipliers)
        return self.emit(
            Requantize, name, a.shape, scale=to.scale, zero=to.zero, bounds=(to.low, to.high),
            a=a.name, multiplier=multiplier, shift=shift,
        )  # fmt: skip

    def saturate(self, name: str, a: Value, low: int, high: int, shift: int = 0) -> Value:
        """Return `min(max(round_shift(a, shift), low), high)`, whose units are `2**shift` times as large."""
        scale = None if a.scale is None else a.scale * 2**shift
        return self.emit(
            Requantize, name, a.shape, scale=scale, bounds=(low, high), a=a.name, multiplier=self.number(1), shift=shift
        )

    def binary(
        self, function: Function, name: str, a: Value | int, b: Value | int, scale: float | None = None, zero: int = 0
    ) -> Value:
        """Add arithmetic on two values, or on a value and a number."""
        shapes = [side.shape for side in (a, b) if isinstance(side, Value)]
        shape = max(shapes, key=lambda axes: (len(axes), axes[-1] != 1))
        left, right = (self.number(side) if isinstance(side, int) else side.name for side in (a, b))
        return self.emit(Binary, name, shape, scale=scale, zero=zero, function=function, a=left, b=right)

    def per_channel(self, function: Function, name: str, a: Value, b: NDArray[Any], scale: float | None) -> Value:
        """Add arithmetic on a value and a constant vector along the last axis."""
        other = self.constant(f"{name}.b", b.astype(np.int32))
        return self.emit(Binary, name, a.shape, scale=scale, function=function, a=a.name, b=other)

    def magnitude(self, name: str, a: Value) -> Value:
        """Return `|a|`."""
        positive = self.binary("maximum", f"{name}.positive", a, 0)
        negated = self.binary("multiply", f"{name}.negated", a, -1)
        return self.binary("maximum", name, positive, negated, scale=a.scale)

    def sign(self, name: str, a: Value) -> Value:
        """Return -1, 0 or 1."""
        return self.saturate(name, a, -1, 1)

    def shift(self, name: str, a: Value, by: Value | int) -> Value:
        """Return `floor(a / 2**by)`."""
        amount = self.number(by) if isinstance(by, int) else by.name
        scale = a.scale * 2**by if isinstance(by, int) and a.scale is not None else None
        return self.emit(Shift, name, a.shape, scale=scale, a=a.name, by=amount)

    def lookup(self, name: str, table: NDArray[Any], a: Value, to: Grid | None = None) -> Value:
        """Look a value up in a table whose first entry is for the value's least number."""
        scale, zero = (None, 0) if to is None else (to.scale, to.zero)
        constant = self.constant(f"{name}.table", table)
        return self.emit(Lookup, name, a.shape, scale=scale, zero=zero, table=constant, a=a.name, start=a.low)

    def reduce(self, function: str, name: str, a: Value) -> Value:
        """Reduce the last axis to its greatest number or its sum."""
        return self.emit(Reduce, name, (*a.shape[:-1], 1), scale=a.scale, function=function, a=a.name)

    def mask(self, name: str, a: Value, mask: str, fill: int) -> Value:
        """Replace the numbers at padding along the last axis by `fill`."""
        return self.emit(Mask, name, a.shape, scale=a.scale, a=a.name, mask=mask, fill=fill)

    def matmul(self, name: str, a: Value, b: Value, *, transposed: bool) -> Value:
        """Multiply two values over their last two axes."""
        if a.zero or b.zero or a.scale is None or b.scale is None:
            raise ValueError(f"{name}: reads a value without scale or with a zero point")
        last = b.shape[-2] if transposed else b.shape[-1]
        return self.emit(MatMul, name, (*a.shape[:-1], last), scale=a.scale * b.scale, a=a.name, b=b.name,
                         transposed=transposed)  # fmt: skip

    def rearrange(self, how: str, name: str, a: Value, shape: tuple[Axis, ...]) -> Value:
        """Split into heads, merge heads, or take the first token."""
        return self.emit(Rearrange, name, shape, scale=a.scale, zero=a.zero, how=how, a=a.name)

    def linear(self, name: str, x: Value, scales: NDArray[np.float64], shift: int, **constants: str | None) -> Value:
        """Multiply by a matrix whose constants are in the program; `scales` `[rows]` are the units of the result."""
        fields: dict[str, Any] = {"x": x.name, "shift": shift, **constants}
        value = self.emit(Linear, name, (*x.shape[:-1], len(scales)), **fields)
        self.scales[name] = scales
        return value
