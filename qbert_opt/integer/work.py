"""The work of nonlinear functions in integers: elementary operations per element, counted from a program.

Every operation of the program that a method builds counts; none is assumed to be fused with another. Per result:

    add, subtract, maximum, minimum, floor shift, mask    1 addition (shifts and comparisons count as such)
    multiply                                              1 multiplication; 1 shift by plus or minus a power of two
    divide by a constant       1 multiplication and 1 shift; by a power of two 1 shift
    remainder by a constant    a division by it, 1 multiplication and 1 subtraction; by a power of two 1 mask
    divide by a value          1 division; for the remainder 1 multiplication and 1 subtraction more
    requantize                 1 multiplication unless by 1; 2 to round unless the shift is 0; 2 to saturate; 1 to add a
                               zero point unless it is 0
    table                      1 read; 1 subtraction unless its first entry is for 0
    sum, maximum of a row      1 addition per element of the row
    square root                1 division and 3 additions per step; 3 additions to find the start unless it is fixed

Operations that occur once per row are divided by the number of its elements.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import prod

import numpy as np

from hwmodels import IntegerWork

from .builder import Builder, Grid
from .layers import STREAM_TOP, Norm, add_layer_norm, add_softmax, probability_top
from .memory import elements_of
from .nonlinearity import SMALLEST_GELU, USUAL_INPUT, USUAL_SCORE, nonlinearity
from .operations import MASK, Binary, Lookup, Mask, Operation, Reduce, Requantize, Shift, SquareRoot, Value
from .program import Output, Program

Counts = tuple[int, int, int, int]  # multiplications, additions, table reads, divisions


@lru_cache
def softmax_work(way: str, tokens: int) -> IntegerWork:
    """Return the work of a softmax over rows of scores, per score.

    Args:
        way: name of the method for exp.
        tokens: length of a row.
    """
    chosen = nonlinearity(way)
    grid = chosen.score_grid(USUAL_SCORE)
    scores = Value("scores", ("batch", 1, "tokens"), grid.low, grid.high, grid.scale)
    mask = Value(MASK, ("batch", "tokens"), 0, 1)
    return _work((scores, mask), tokens, tokens, lambda b: add_softmax(b, chosen, "f", scores, probability_top(tokens)))


@lru_cache
def activation_work(way: str, bits: int) -> IntegerWork:
    """Return the work of GELU, per element.

    Args:
        way: name of the method.
        bits: bits of the result: 4, 8 or 16.
    """
    x = Value("x", ("batch", "tokens"), -(2**20), 2**20, USUAL_INPUT[1] / 2**20)
    to = Grid.spanning(SMALLEST_GELU, USUAL_INPUT[1], bits)
    return _work((x,), 1, 1, lambda b: nonlinearity(way).activation(b, "f", "gelu", x, USUAL_INPUT, to))


@lru_cache
def norm_work(way: str, hidden: int) -> IntegerWork:
    """Return the work of a LayerNorm, per element.

    Args:
        way: name of the method for the square root.
        hidden: length of a row.
    """
    x = Value("x", ("batch", "tokens", hidden), -STREAM_TOP, STREAM_TOP, USUAL_INPUT[1] / STREAM_TOP)
    norm = Norm(np.ones(hidden), np.ones(hidden), 1e-12)
    return _work((x,), 1, hidden, lambda b: add_layer_norm(b, nonlinearity(way), "f", x, norm))


def program_work(program: Program, tokens: int, elements: int) -> IntegerWork:
    """Return the work of a program without matrix products, per element.

    Args:
        program: the program.
        tokens: tokens of a text.
        elements: number of elements that the counts are divided by.

    Raises:
        TypeError: the program has an operation that nonlinear functions do not use.
    """
    totals = np.zeros(4)
    for step in program.operations:
        times = elements_of(step.output.shape, tokens)
        if isinstance(step, Reduce):
            times = elements_of(program.values[step.a].shape, tokens)
        totals += times * np.array(_counts(step, program))
    tables = {step.table for step in program.operations if isinstance(step, Lookup)}
    multiplies, additions, table_reads, divisions = (totals / elements).tolist()
    table_bytes = sum(program.constants[name].nbytes for name in tables)
    return IntegerWork(multiplies, additions, table_reads, divisions, table_bytes)


def _work(inputs: tuple[Value, ...], tokens: int, elements: int, build: Callable[[Builder], Value]) -> IntegerWork:
    builder = Builder(inputs, tokens)
    result = build(builder)
    return program_work(builder.finish((Output("f", result.name),)), tokens, elements)


def _counts(step: Operation, program: Program) -> Counts:
    match step:
        case Binary(function="multiply", a=a, b=b):
            known = [number for name in (a, b) if (number := _constant(name, program)) is not None]
            return (0, 1, 0, 0) if any(_is_power_of_two(abs(number)) for number in known) else (1, 0, 0, 0)
        case Binary(function=("divide" | "remainder") as function, b=b):
            return _division(function, _constant(b, program))
        case Binary() | Shift() | Mask() | Reduce():
            return 0, 1, 0, 0
        case Requantize(multiplier=multiplier, shift=shift):
            return int(_constant(multiplier, program) != 1), 2 * (shift > 0) + 2 + (step.output.zero != 0), 0, 0
        case Lookup(start=start):
            return 0, int(start != 0), 1, 0
        case SquareRoot(start=start, steps=steps):
            return 0, 3 * steps + 3 * (start is None), 0, steps
    raise TypeError(f"{type(step).__name__} is not an operation of a nonlinear function")


def _division(function: str, divisor: int | None) -> Counts:
    whole = function == "divide"
    if divisor is None:
        return (0, 0, 0, 1) if whole else (1, 1, 0, 1)
    if _is_power_of_two(divisor):
        return 0, 1, 0, 0
    return (1, 1, 0, 0) if whole else (2, 2, 0, 0)


def _is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


def _constant(name: str, program: Program) -> int | None:
    """Return the number that a name stands for, None if it is a value or an array."""
    array = program.constants.get(name)
    return int(array.reshape(-1)[0]) if array is not None and prod(array.shape) == 1 else None
