"""A second executor that shares no arithmetic with the reference: int32, values stored in 8, 16 or 32 bits.

Only the products inside a requantization and before the shift of a group have 64 bits. If the interval analysis were
wrong about a sum or product, it would wrap here but not in the reference, so equal results are evidence for both. It is
slow, because numpy does not use BLAS for integer matrices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .operations import (
    IDS,
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
from .program import Program

Narrow = NDArray[Any]


def stored_type(value: Value) -> type[np.int8] | type[np.int16] | type[np.int32]:
    """Return the narrowest integer type that holds every number of a value's interval.

    Args:
        value: a value with its proven interval.
    """
    return np.int8 if value.width <= 8 else np.int16 if value.width <= 16 else np.int32


class NarrowExecutor:
    """A program ready to run in int32.

    Args:
        program: the program to execute.
    """

    def __init__(self, program: Program) -> None:
        self.program = program

    def run(self, inputs: Mapping[str, NDArray[Any]], keep: Iterable[str] = ()) -> dict[str, Narrow]:
        """Return the integers of the outputs' values, and of the values to keep, by name.

        Args:
            inputs: integer arrays `[batch, tokens]` by name.
            keep: names of further values to return.
        """
        held: dict[str, Narrow] = {value.name: inputs[value.name].astype(np.int32) for value in self.program.inputs}
        for operation in self.program.operations:
            read = {name: self._wide(name, held) for name in operation.operands}
            result = _apply(operation, read, inputs[IDS].shape[1] if IDS in inputs else 0, self.program.max_tokens)
            held[operation.output.name] = result.astype(stored_type(operation.output))
        kept = {*keep, *(output.value for output in self.program.outputs)}
        return {name: held[name].astype(np.int32) for name in kept}

    def _wide(self, name: str, held: Mapping[str, Narrow]) -> Narrow:
        return (held[name] if name in held else self.program.constants[name]).astype(np.int32)


def _apply(operation: Operation, of: Mapping[str, Narrow], tokens: int, max_tokens: int) -> Narrow:
    match operation:
        case Positions(ids=ids, padding=padding):
            return _positions(of[ids], padding)
        case Embed():
            return _embed(operation, of)
        case Relative(table=table):
            rows = [of[table][:, max_tokens - 1 - i : max_tokens - 1 - i + tokens] for i in range(tokens)]
            return np.stack(rows, axis=1)
        case Linear():
            return _linear(operation, of)
        case MatMul(a=a, b=b, transposed=transposed):
            pattern = "...mk,...nk->...mn" if transposed else "...mk,...kn->...mn"
            product: Narrow = np.einsum(pattern, of[a], of[b], dtype=np.int32)
            return product
        case Binary(function=function, a=a, b=b):
            return _binary(function, of[a], of[b])
        case Requantize(a=a, multiplier=multiplier, shift=shift):
            return _requantize(of[a], of[multiplier], shift, operation.output)
        case Shift(a=a, by=by):
            return np.asarray(of[a] >> of[by])
        case Lookup(table=table, a=a, start=start):
            return np.take(of[table], of[a] - np.int32(start))
        case Reduce(function=function, a=a):
            return np.asarray(
                of[a].max(-1, keepdims=True) if function == "max" else of[a].sum(-1, keepdims=True, dtype=np.int32)
            )
        case Mask(a=a, mask=mask, fill=fill):
            result = of[a].copy()
            for row, real in enumerate(of[mask]):
                result[row][..., real == 0] = fill
            return result
        case SquareRoot(a=a, start=start, steps=steps):
            return _root(of[a], start, steps)
        case Rearrange(how=how, a=a):
            return _rearrange(how, of[a], operation.output)
    raise TypeError(f"{type(operation).__name__} is not an operation of a program")


def _positions(ids: Narrow, padding: int | None) -> Narrow:
    places = np.empty_like(ids)
    for row, line in enumerate(ids.tolist()):
        counted = padding or 0
        for token, identity in enumerate(line):
            if padding is None:
                places[row, token] = token
            else:
                counted += identity != padding
                places[row, token] = counted if identity != padding else padding
    return places


def _requantize(a: Narrow, multiplier: Narrow, shift: int, output: Value) -> Narrow:
    product = _round_shift(a.astype(np.int64) * multiplier, shift)
    saturated: Narrow = np.maximum(np.minimum(product + output.zero, output.high), output.low)
    return saturated.astype(np.int32)


def _round_shift(product: Narrow, shift: int) -> Narrow:
    """Return a product divided by a power of two, rounded half up."""
    if shift:
        product = (product >> shift) + ((product >> (shift - 1)) & 1)
    return product


def _embed(operation: Embed, of: Mapping[str, Narrow]) -> Narrow:
    index, codes = of[operation.index], of[operation.codes]
    factors, offsets = of[operation.factors], of[operation.offsets]
    groups = factors.shape[1]
    parts = codes[index].reshape(*index.shape, groups, -1)
    exact = parts * factors[index][..., None] + offsets[index][..., None]
    if operation.shift:
        exact = (exact + np.int32(1 << (operation.shift - 1))) >> operation.shift
    return exact.reshape(*index.shape, -1)


def _linear(operation: Linear, of: Mapping[str, Narrow]) -> Narrow:
    x, weights = of[operation.x], of[operation.weights]
    grouped = operation.factors or operation.sums
    groups = 1 if grouped is None else of[grouped].shape[1]
    size = x.shape[-1] // groups
    y = np.zeros((*x.shape[:-1], len(weights)), np.int32)
    for g in range(groups):
        part = x[..., g * size : (g + 1) * size]
        wide = np.int64 if operation.shift else np.int32
        products = np.dot(part, weights[:, g * size : (g + 1) * size].T).astype(wide)
        if operation.factors is not None:
            products *= of[operation.factors][:, g]
        if operation.sums is not None:
            products += part.sum(-1, keepdims=True, dtype=np.int32).astype(wide) * of[operation.sums][:, g]
        y += _round_shift(products, operation.shift).astype(np.int32)
    if operation.bias is not None:
        y += of[operation.bias]
    return y


def _binary(function: str, a: Narrow, b: Narrow) -> Narrow:
    match function:
        case "add":
            return a + b
        case "subtract":
            return a - b
        case "multiply":
            return a * b
        case "divide":
            return np.trunc(a / b).astype(np.int32)  # exact: both have at most 31 bits, a double 53
        case "remainder":
            return np.asarray(a - b * np.trunc(a / b).astype(np.int32))
        case "maximum":
            return np.where(a > b, a, b)
    return np.where(a < b, a, b)


def _root(a: Narrow, start: int | None, steps: int) -> Narrow:
    x = np.ones_like(a) if start is None else np.full_like(a, start)
    if start is None:
        for half in range(16):
            x = np.where(a >= np.int32(1 << (2 * half)), np.int32(2 << half), x)  # 2 * half + 1 binary digits or more
    for _ in range(steps):
        x = np.minimum(x, np.asarray((x + a // x) >> 1))
    return np.asarray(x)


def _rearrange(how: str, a: Narrow, output: Value) -> Narrow:
    if how == "first":
        return a[:, 0].copy()
    if how == "split":
        batch, tokens, hidden = a.shape
        heads = int(output.shape[1])
        split = np.empty((batch, heads, tokens, hidden // heads), a.dtype)
        for head in range(heads):
            split[:, head] = a[..., head * (hidden // heads) : (head + 1) * (hidden // heads)]
        return split
    return np.concatenate([a[:, head] for head in range(a.shape[1])], axis=-1)
