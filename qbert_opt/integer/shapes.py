"""The shape of an operation's result, inferred from its operands; a program that states another shape is refused."""

from __future__ import annotations

from collections.abc import Mapping

from .operations import (
    BATCH,
    MASK,
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

Shape = tuple[Axis, ...]
PER_TOKEN: Shape = (BATCH, TOKENS)


def check_shapes(program: Program) -> None:
    """Check every stated shape, and that constants have the sizes that their operations need.

    Args:
        program: for example one that was read from a file.

    Raises:
        ValueError: a stated shape differs from the inferred one, or operands do not fit together; names the value.
    """
    values = {value.name: value for value in program.inputs}
    for value in program.inputs:
        _need(value.shape == PER_TOKEN, value.name, f"is {_text(value.shape)}, where inputs are batch x tokens")
    for step in program.operations:
        made = shape_of(step, values, program.constants)
        stated = step.output.shape
        _need(made == stated, step.output.name, f"states the shape {_text(stated)}, but is {_text(made)}")
        values[step.output.name] = step.output
    for output in program.outputs:
        last = values[output.value].shape[-1]
        fits = output.column is None or (isinstance(last, int) and 0 <= output.column < last)
        _need(fits, output.name, f"takes column {output.column} of {last}")


def shape_of(step: Operation, values: Mapping[str, Value], constants: Constants) -> Shape:
    """Return the shape of an operation's result.

    Args:
        step: the operation.
        values: inputs of the program and results of earlier operations, by name.
        constants: constants by name.

    Raises:
        ValueError: it cannot read operands of these shapes.
    """
    of = {name: values[name].shape if name in values else constants[name].shape for name in step.operands}
    name = step.output.name
    match step:
        case Positions(ids=ids):
            return of[ids]
        case Embed():
            rows, columns = _matrix(of[step.codes], name)
            _groups(name, rows, columns, of[step.factors], of[step.offsets])
            return (*of[step.index], columns)
        case Relative(table=table):
            return (_matrix(of[table], name)[0], TOKENS, TOKENS)
        case Linear():
            return _linear(step, of)
        case MatMul(a=a, b=b, transposed=transposed):
            left, right = of[a], of[b]
            depth, last = (right[-1], right[-2]) if transposed else (right[-2], right[-1])
            fits = (left[:-2], left[-1]) == (right[:-2], depth)
            _need(fits, name, f"multiplies {_text(left)} by {_text(right)}")
            return (*left[:-1], last)
        case Binary(a=a, b=b):
            return _paired(name, of[a], of[b], {x for x in (a, b) if x in constants})
        case Requantize(a=a, multiplier=multiplier):
            _need(
                _paired(name, of[a], of[multiplier], {multiplier} & set(constants)) == of[a], name, "changes its shape"
            )
            return of[a]
        case Shift(a=a, by=by):
            legal = of[by] == of[a] if by in values else of[by] in ((), (1,))
            _need(legal, name, f"shifts {_text(of[a])} by {_text(of[by])}")
            return of[a]
        case Lookup(a=a, table=table):
            _need(len(of[table]) == 1, name, f"looks up in a table of shape {_text(of[table])}")
            return of[a]
        case Reduce(a=a):
            return (*of[a][:-1], 1)
        case Mask(a=a, mask=mask):
            legal = mask == MASK and of[mask] == PER_TOKEN and of[a][0] == BATCH and of[a][-1] == TOKENS
            _need(legal, name, f"masks {_text(of[a])} by {mask}")
            return of[a]
        case SquareRoot(a=a):
            return of[a]
        case Rearrange(how=how, a=a):
            return _rearranged(how, of[a], step)
    raise TypeError(f"{type(step).__name__} is not an operation of a program")


def _linear(step: Linear, of: Mapping[str, Shape]) -> Shape:
    name = step.output.name
    rows, columns = _matrix(of[step.weights], name)
    x = of[step.x]
    _need(x[-1] == columns, name, f"multiplies {_text(x)} by {columns} columns")
    _groups(name, rows, columns, *(of[part] for part in (step.factors, step.sums) if part is not None))
    _need(step.bias is None or of[step.bias] == (rows,), name, f"has {rows} rows and a bias of another length")
    return (*x[:-1], rows)


def _groups(name: str, rows: int, columns: int, *parts: Shape) -> None:
    """Check that all factors are `[rows, groups]`, and that the groups divide the columns equally."""
    for part in parts:
        legal = part == parts[0] and len(part) == 2 and part[0] == rows and columns % int(part[1]) == 0
        _need(legal, name, f"has {rows} x {columns} codes and factors of {_text(part)}")


def _paired(name: str, a: Shape, b: Shape, constant: set[str]) -> Shape:
    """Return the shape of an element-by-element result; operands broadcast along the last axis and leading axes."""
    long, short = (a, b) if len(a) >= len(b) else (b, a)
    if len(short) == 0 or short == (1,) or (constant and short == long[-1:]):
        return long
    tail = long[len(long) - len(short) :]
    if (short[:-1] == tail[:-1] and 1 in (short[-1], tail[-1])) or short == tail:
        return (*long[:-1], tail[-1] if short[-1] == 1 else short[-1])
    raise ValueError(f"{name}: pairs {_text(a)} with {_text(b)}")


def _rearranged(how: str, a: Shape, step: Rearrange) -> Shape:
    name, stated = step.output.name, step.output.shape
    if how == "first":
        _need(len(a) == 3, name, f"takes the first token of {_text(a)}")
        return (a[0], a[2])
    whole, parts = (a, stated) if how == "split" else (stated, a)
    legal = len(whole) == 3 and len(parts) == 4 and (whole[0], whole[1]) == (parts[0], parts[2])
    legal = legal and int(parts[1]) * int(parts[3]) == whole[2] and int(parts[1]) > 0
    _need(legal, name, f"cannot rearrange {_text(a)} to {_text(stated)}")
    return stated


def _matrix(shape: Shape, name: str) -> tuple[int, int]:
    _need(len(shape) == 2, name, f"reads a matrix of shape {_text(shape)}")
    return int(shape[0]), int(shape[1])


def _text(shape: Shape) -> str:
    return " x ".join(map(str, shape)) or "a number"


def _need(legal: bool, name: str, fault: str) -> None:
    if not legal:
        raise ValueError(f"{name}: {fault}")
