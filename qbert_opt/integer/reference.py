"""The reference executor: numpy in int64, with every value checked against its proven interval.

Matrix products are computed in float64: all their partial sums are integers below 2**53, so each is exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .operations import (
    IDS,
    PRODUCT_LIMIT,
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
)
from .program import Program, last_reads

Numbers = NDArray[np.int64]


class IntervalError(ArithmeticError):
    """A number outside its proven interval: a bug in the analysis."""


def round_shift(a: Numbers, shift: int) -> Numbers:
    """Return `a / 2**shift` rounded half up.

    Args:
        a: any numbers for which adding `2**(shift - 1)` does not wrap.
        shift: 0 to 62.

    >>> round_shift(np.array([-3, -1, 1, 3]), 1).tolist()
    [-1, 0, 1, 2]
    """
    return a if shift == 0 else (a + (1 << (shift - 1))) >> shift


def square_root(a: Numbers, start: int | None, steps: int) -> Numbers:
    """Return Newton's integer square root, see `operations.SquareRoot`.

    Args:
        a: each at least 1 and below 2**31.
        start: where the iteration starts; None starts at the power of two above the root.
        steps: number of iterations.
    """
    digits = np.frexp(a.astype(np.float64))[1]  # exact: a has fewer than 53 binary digits
    x = np.left_shift(1, (digits + 1) // 2).astype(np.int64) if start is None else np.full_like(a, start)
    for _ in range(steps):
        x = np.minimum(x, (x + a // x) // 2)
    return x


class Reference:
    """A program ready to run.

    Args:
        program: the program to execute.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        exact = {operation.weights for operation in program.operations if isinstance(operation, Linear)}
        self._constants: dict[str, NDArray[Any]] = {
            name: array.astype(np.float64 if name in exact else np.int64) for name, array in program.constants.items()
        }

    def run(self, inputs: Mapping[str, NDArray[Any]], keep: Iterable[str] = ()) -> dict[str, Numbers]:
        """Return the integers of the outputs' values, and of the values to keep, by name.

        Args:
            inputs: integer arrays `[batch, tokens]` by name; tokens at most `program.max_tokens`.
            keep: names of further values to return.

        Raises:
            IntervalError: a number lies outside its proven interval.
        """
        program = self.program
        kept = {*keep, *(output.value for output in program.outputs)}
        numbers: dict[str, Any] = {value.name: inputs[value.name].astype(np.int64) for value in program.inputs}
        numbers |= self._constants
        free = last_reads(program.operations, kept)
        for index, operation in enumerate(program.operations):
            result, value = _result(operation, numbers, program), operation.output
            if result.size and not (value.low <= int(result.min()) and int(result.max()) <= value.high):
                raise IntervalError(
                    f"{value.name}: {type(operation).__name__} made {result.min()} to {result.max()}, outside its "
                    f"proven interval {value.low} to {value.high}"
                )
            numbers[value.name] = result
            for name in free.get(index, ()):
                del numbers[name]
        return {name: numbers[name] for name in kept}


def _result(operation: Operation, of: Mapping[str, Any], program: Program) -> Numbers:
    match operation:
        case Positions(ids=ids, padding=padding):
            return _positions(of[ids], padding)
        case Embed():
            return _embedded(operation, of)
        case Relative(table=table):
            steps = np.arange(of[IDS].shape[1])
            return _numbers(of[table][:, steps[None, :] - steps[:, None] + program.max_tokens - 1])
        case Linear():
            return _linear(operation, of)
        case MatMul(a=a, b=b, transposed=transposed):
            return _product(of[a], np.swapaxes(of[b], -1, -2) if transposed else of[b])
        case Binary(function=function, a=a, b=b):
            return _binary(function, of[a], of[b], operation.output.name)
        case Requantize(a=a, multiplier=multiplier, shift=shift):
            product = of[a] * of[multiplier]
            if product.size and int(np.abs(product).max()) + (1 << shift >> 1) >= PRODUCT_LIMIT:
                raise IntervalError(f"{operation.output.name}: the product of the requantization needs 64 bits")
            value = operation.output
            return np.clip(round_shift(product, shift) + value.zero, value.low, value.high)
        case Shift(a=a, by=by):
            return _numbers(of[a] >> of[by])
        case Lookup(table=table, a=a, start=start):
            return _numbers(of[table][of[a] - start])
        case Reduce(function=function, a=a):
            return _numbers(getattr(of[a], function)(-1, keepdims=True))
        case Mask(a=a, mask=mask, fill=fill):
            real = of[mask].astype(bool)
            return np.where(real.reshape(len(real), *[1] * (of[a].ndim - 2), -1), of[a], fill)
        case SquareRoot(a=a, start=start, steps=steps):
            return square_root(of[a], start, steps)
        case Rearrange(how=how, a=a):
            return _rearranged(how, of[a], operation)
    raise TypeError(f"{type(operation).__name__} is not an operation of a program")


def _positions(ids: Numbers, padding: int | None) -> Numbers:
    if padding is None:
        return np.tile(np.arange(ids.shape[1]), (len(ids), 1))
    real = _numbers(ids != padding)
    return _numbers(padding + real * np.cumsum(real, axis=1))


def _embedded(operation: Embed, of: Mapping[str, Any]) -> Numbers:
    index = of[operation.index]
    codes, factors, offsets = (of[name][index] for name in (operation.codes, operation.factors, operation.offsets))
    size = codes.shape[-1] // factors.shape[-1]
    exact = codes * np.repeat(factors, size, axis=-1) + np.repeat(offsets, size, axis=-1)
    return round_shift(exact, operation.shift)


def _linear(operation: Linear, of: Mapping[str, Any]) -> Numbers:
    x, weights = of[operation.x], of[operation.weights]
    grouped = operation.factors or operation.sums
    groups = of[grouped].shape[1] if grouped else 1
    parts = x.reshape(*x.shape[:-1], groups, -1)
    y: Numbers = np.zeros((), np.int64)
    for g, codes in enumerate(np.split(weights, groups, axis=1)):
        product = _product(parts[..., g, :], codes.T)
        part = product if operation.factors is None else product * of[operation.factors][:, g]
        if operation.sums is not None:
            part = part + parts[..., g, :].sum(-1, keepdims=True) * of[operation.sums][:, g]
        y = y + round_shift(part, operation.shift)
    return y if operation.bias is None else y + of[operation.bias]


def _product(a: NDArray[Any], b: NDArray[Any]) -> Numbers:
    return _numbers(np.matmul(a.astype(np.float64, copy=False), b.astype(np.float64, copy=False)))


def _numbers(array: NDArray[Any]) -> Numbers:
    return array.astype(np.int64, copy=False)


def _binary(function: str, a: Numbers, b: Numbers, name: str) -> Numbers:
    if function in ("divide", "remainder") and (int(a.min()) < 0 or int(b.min()) < 1):
        raise IntervalError(f"{name}: divides {a.min()} by {b.min()}")
    functions = {
        "add": np.add, "subtract": np.subtract, "multiply": np.multiply, "divide": np.floor_divide,
        "remainder": np.remainder, "maximum": np.maximum, "minimum": np.minimum,
    }  # fmt: skip
    result: Numbers = functions[function](a, b)
    return result


def _rearranged(how: str, a: Numbers, operation: Operation) -> Numbers:
    if how == "first":
        return a[:, 0]
    if how == "split":
        heads, size = operation.output.shape[1], operation.output.shape[3]
        return a.reshape(*a.shape[:2], int(heads), int(size)).transpose(0, 2, 1, 3)
    batch, _heads, tokens, _size = a.shape
    return a.transpose(0, 2, 1, 3).reshape(batch, tokens, -1)
