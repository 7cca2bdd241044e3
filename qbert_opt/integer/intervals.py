"""Interval analysis: proven bounds on the result of an operation, from the intervals of its operands.

The intervals hold for every input, not only for the calibration set. Products with constant matrices are bounded row by
row from the codes themselves, which keeps the bounds tight enough for 32 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, isqrt

import numpy as np
from numpy.typing import NDArray

from .operations import (
    BATCH,
    INT32,
    PRODUCT_LIMIT,
    TOKENS,
    Axis,
    Binary,
    Embed,
    Linear,
    Lookup,
    Mask,
    MatMul,
    Operation,
    Positions,
    Rearrange,
    Reduce,
    Relative,
    Requantize,
    Shift,
    SquareRoot,
    Value,
)
from .program import Constants, Program

Interval = tuple[int, int]
NEWTON_STEPS = 5  # enough from the power of two above the root to the root's floor, for every number below 2**31


@dataclass(frozen=True, slots=True)
class Operands:
    """Values and constants that operations can read.

    Attributes:
        values: values by name.
        constants: constants by name.
        max_tokens: tokens of the longest sample.
    """

    values: Mapping[str, Value]
    constants: Constants
    max_tokens: int

    def interval(self, name: str) -> Interval:
        """Return the least and the greatest number of a value or constant."""
        if name in self.values:
            return self.values[name].low, self.values[name].high
        array = self.constants[name]
        return int(array.min()), int(array.max())

    def last_axis(self, name: str) -> int:
        """Return the largest size of a value's last axis."""
        return self.size(self.values[name].shape[-1])

    def size(self, axis: Axis) -> int:
        """Return the largest size of an axis."""
        return self.max_tokens if axis == TOKENS else 1 if axis == BATCH else int(axis)


class OverflowFound(ArithmeticError):
    """For some input a number needs more than 32 bits, a product more than 62, or an index is outside its table."""


def interval_of(operation: Operation, of: Operands) -> Interval:
    """Return the proven interval of an operation's output.

    Args:
        operation: the operation; the stated interval of its output matters only for `Requantize`, which saturates.
        of: what it can read.

    Raises:
        OverflowFound: for some input a number, partial sum or product is too wide, or an index is outside its table.
    """
    low, high = _interval(operation, of)
    _check(operation, "makes", low, high)
    return low, high


def _interval(operation: Operation, of: Operands) -> Interval:
    match operation:
        case Positions(padding=padding):
            return (0, of.max_tokens - 1) if padding is None else (padding, padding + of.max_tokens)
        case Embed():
            return _embed(operation, of)
        case Relative(table=table):
            columns = of.constants[table].shape[1]
            if columns != 2 * of.max_tokens - 1:
                raise OverflowFound(f"{operation.output.name}: has {columns} distances for {of.max_tokens} tokens")
            return of.interval(table)
        case Linear():
            return _linear(operation, of)
        case MatMul(a=a, b=b, transposed=transposed):
            _a, b_shape = of.values[a].shape, of.values[b].shape
            terms = of.size(b_shape[-1] if transposed else b_shape[-2])
            low, high = _products(of.interval(a), of.interval(b))
            return terms * min(low, 0), terms * max(high, 0)
        case Binary(function=function, a=a, b=b):
            if a == b and function == "multiply":
                return _square(of.interval(a))
            return _binary(operation, function, of.interval(a), of.interval(b))
        case Requantize():
            return _requantize(operation, of)
        case Shift(a=a, by=by):
            (low, high), (least, most) = of.interval(a), of.interval(by)
            if least < 0 or most > 31:
                raise OverflowFound(f"{operation.output.name}: shifts by {least} to {most}")
            return min(low >> least, low >> most), max(high >> least, high >> most)
        case Lookup(table=table, a=a, start=start):
            low, high = of.interval(a)
            part = of.constants[table][max(low - start, 0) : high - start + 1]
            if low < start or high - start >= len(of.constants[table]):
                raise OverflowFound(f"{operation.output.name}: looks up {low} to {high}, outside its table")
            return int(part.min()), int(part.max())
        case Reduce(function=function, a=a):
            low, high = of.interval(a)
            terms = of.last_axis(a)
            return (low, high) if function == "max" else (min(low, terms * low), max(high, terms * high))
        case Mask(a=a, fill=fill):
            low, high = of.interval(a)
            return min(low, fill), max(high, fill)
        case SquareRoot():
            return _square_root(operation, of)
        case Rearrange(a=a):
            return of.interval(a)
    raise TypeError(f"{type(operation).__name__} is not an operation of a program")


def _check(operation: Operation, does: str, low: int, high: int) -> None:
    if low < -INT32 - 1 or high > INT32:
        raise OverflowFound(f"{operation.output.name}: {does} numbers from {low} to {high}, which 32 bits do not hold")


def _products(a: Interval, b: Interval) -> Interval:
    ends = [x * y for x in a for y in b]
    return min(ends), max(ends)


def _square(a: Interval) -> Interval:
    largest = max(a[0] ** 2, a[1] ** 2)
    return (0 if a[0] <= 0 <= a[1] else min(a[0] ** 2, a[1] ** 2)), largest


def _embed(operation: Embed, of: Operands) -> Interval:
    factors, offsets = (of.constants[name].astype(np.int64) for name in (operation.factors, operation.offsets))
    codes = of.constants[operation.codes]
    first, last = of.interval(operation.index)
    if first < 0 or last >= len(codes):
        raise OverflowFound(f"{operation.output.name}: reads rows {first} to {last} of a table of {len(codes)}")
    groups = codes.reshape(len(codes), factors.shape[1], -1)
    products = [groups.min(-1) * factors, groups.max(-1) * factors]
    _check(operation, "multiplies to", min(int(p.min()) for p in products), max(int(p.max()) for p in products))
    ends = [product + offsets for product in products]
    half = 1 << operation.shift >> 1
    low, high = min(int(e.min()) for e in ends), max(int(e.max()) for e in ends)
    low, high = min(low, int(offsets.min())), max(high, int(offsets.max()))
    _check(operation, "adds up", low, high + half)
    return (low + half) >> operation.shift, (high + half) >> operation.shift


def _linear(operation: Linear, of: Operands) -> Interval:
    """Bound each row; every partial sum is bounded by the sum of the largest magnitudes, whatever the order."""
    interval, terms = of.interval(operation.x), linear_terms(operation, of)
    bias = 0 if operation.bias is None else of.constants[operation.bias].astype(np.int64)
    largest, half = max(-interval[0], interval[1]), 1 << operation.shift >> 1
    _check(operation, "adds up", 0, int(terms.dot.max()) * largest)
    widest = int(terms.magnitude.max()) * largest + half
    if not 0 <= operation.shift <= 62 or widest >= (PRODUCT_LIMIT if operation.shift else 1 << 63):
        raise OverflowFound(f"{operation.output.name}: a product of {widest} before a shift of {operation.shift} needs "
                            "more than 62 bits")  # fmt: skip
    partial = ((terms.magnitude * largest + half) >> operation.shift).sum(1) + np.abs(bias)
    _check(operation, "adds up", 0, int(partial.max()))
    low = terms.positive * interval[0] + terms.negative * interval[1]
    high = terms.positive * interval[1] + terms.negative * interval[0]
    least, most = (((end + half) >> operation.shift).sum(1) + bias for end in (low, high))
    return int(least.min()), int(most.max())


@dataclass(frozen=True, slots=True)
class GroupSums:
    """Sums that bound a `Linear`, each int64 `[rows, groups]`.

    Attributes:
        positive: sum of the positive coefficients of x.
        negative: sum of the negative coefficients of x.
        dot: bound on every partial sum of codes times x, and of x alone, as a multiple of the largest |x|.
        magnitude: bound on the same sums after multiplication by `factors` and `sums`, likewise.
    """

    positive: NDArray[np.int64]
    negative: NDArray[np.int64]
    dot: NDArray[np.int64]
    magnitude: NDArray[np.int64]


def linear_terms(operation: Linear, of: Operands) -> GroupSums:
    """Return the sums of a `Linear`'s coefficients, group by group.

    Args:
        operation: the product.
        of: what it can read.
    """
    weights = of.constants[operation.weights].astype(np.int64)
    grouped = operation.factors or operation.sums
    groups = of.constants[grouped].shape[1] if grouped else 1
    parts = weights.reshape(len(weights), groups, -1)
    dot = apart = np.abs(parts).sum(-1)
    whole = parts
    if operation.factors is not None:
        factors = of.constants[operation.factors].astype(np.int64)
        whole, apart = parts * factors[..., None], apart * np.maximum(np.abs(factors), 1)
    if operation.sums is not None:
        sums = of.constants[operation.sums].astype(np.int64)
        whole, apart = whole + sums[..., None], apart + parts.shape[-1] * np.maximum(np.abs(sums), 1)
        dot = np.maximum(dot, parts.shape[-1])
    return GroupSums(np.maximum(whole, 0).sum(2), np.minimum(whole, 0).sum(2), dot, apart)


def _binary(operation: Operation, function: str, a: Interval, b: Interval) -> Interval:
    match function:
        case "add":
            return a[0] + b[0], a[1] + b[1]
        case "subtract":
            return a[0] - b[1], a[1] - b[0]
        case "multiply":
            return _products(a, b)
        case "maximum":
            return max(a[0], b[0]), max(a[1], b[1])
        case "minimum":
            return min(a[0], b[0]), min(a[1], b[1])
    if a[0] < 0 or b[0] < 1:
        raise OverflowFound(f"{operation.output.name}: divides {a[0]} to {a[1]} by {b[0]} to {b[1]}")
    if function == "remainder":
        return a if a[1] < b[0] else (0, min(a[1], b[1] - 1))
    return a[0] // b[1], a[1] // b[0]


def _requantize(operation: Requantize, of: Operands) -> Interval:
    low, high = _products(of.interval(operation.a), of.interval(operation.multiplier))
    half = 1 << operation.shift >> 1
    if max(-low, high) + half >= PRODUCT_LIMIT or not 0 <= operation.shift <= 62:
        raise OverflowFound(f"{operation.output.name}: a product from {low} to {high} before a shift of "
                            f"{operation.shift} needs more than 62 bits")  # fmt: skip
    value = operation.output
    reached = [((end + half) >> operation.shift) + value.zero for end in (low, high)]
    return max(min(reached[0], value.high), value.low), min(max(reached[1], value.low), value.high)


def _square_root(operation: SquareRoot, of: Operands) -> Interval:
    low, high = of.interval(operation.a)
    if low < 1:
        raise OverflowFound(f"{operation.output.name}: takes the root of {low}")
    if operation.start is not None:
        if operation.start < 1:
            raise OverflowFound(f"{operation.output.name}: starts a root at {operation.start}")
        _check(operation, "adds up", 0, operation.start + high // operation.start)
    if operation.start is None and operation.steps >= NEWTON_STEPS:
        return isqrt(low), isqrt(high)
    root = float(high) ** 0.5
    reached = max(2.0 * root if operation.start is None else float(operation.start), root)
    for _ in range(operation.steps):
        reached = (reached + high / reached) / 2  # falls with each step, grows with `high`: bounds smaller numbers too
    return (1 if operation.start is not None and operation.start < root else isqrt(low)), ceil(reached)


def check_intervals(program: Program) -> None:
    """Prove the intervals that a program states.

    Args:
        program: for example one that was read from a file.

    Raises:
        OverflowFound: a value can leave its stated interval, or its interval or a step of its operation needs more than
            32 bits; names the value.
    """
    values = {value.name: value for value in program.inputs}
    for value in program.values.values():
        if value.low < -INT32 - 1 or value.high > INT32:
            raise OverflowFound(f"{value.name}: states {value.low} to {value.high}, which 32 bits do not hold")
    for operation in program.operations:
        low, high = interval_of(operation, Operands(values, program.constants, program.max_tokens))
        value = operation.output
        if low < value.low or high > value.high:
            raise OverflowFound(f"{value.name}: states {value.low} to {value.high}, but can be {low} to {high}")
        values[value.name] = value
