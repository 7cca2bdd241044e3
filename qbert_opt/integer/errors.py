"""How far a way to compute a nonlinear function is from the real one, over every input that it can have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .builder import Builder, Grid
from .nonlinearity import (
    ACTIVATIONS,
    SCORE_TOP,
    SMALLEST_GELU,
    USUAL_INPUT,
    USUAL_SCORE,
    Activation,
    nonlinearity,
)
from .operations import Value
from .program import Output
from .reference import Reference

INPUTS = 1 << 16


@dataclass(frozen=True, slots=True)
class FunctionError:
    """Errors of one function.

    Attributes:
        function: name, for example `gelu`.
        way: name of the way.
        inputs: how many inputs were tried.
        largest: greatest absolute error, the rounding of input and result included.
        mean: mean absolute error.
    """

    function: str
    way: str
    inputs: int
    largest: float
    mean: float


def evaluated(
    numbers: NDArray[np.int64], scale: float | None, build: Callable[[Builder, Value], Value]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Run what `build` adds to a program on numbers; return its integers, and what they stand for.

    Args:
        numbers: one axis.
        scale: real number of one unit of them.
        build: adds operations to a value and returns the result.
    """
    x = Value("x", ("batch", "tokens"), int(numbers.min()), int(numbers.max()), scale)
    builder = Builder((x,), len(numbers))
    y = build(builder, x)
    program = builder.finish((Output("y", y.name),))
    integers = Reference(program).run({"x": numbers[None]})[y.name][0]
    return integers, (integers - y.zero) * (y.scale or 1.0)


def activation_error(way: str, function: Activation, span: tuple[float, float], to: Grid) -> FunctionError:
    """Compare an activation on 65,536 equally spaced inputs.

    Args:
        way: how it is computed.
        function: which one.
        span: least and greatest input.
        to: grid of the result.
    """
    scale = max(span[1] - span[0], 1e-6) / (INPUTS - 1)
    numbers = np.arange(round(span[0] / scale), round(span[0] / scale) + INPUTS)
    chosen = nonlinearity(way)
    _, real = evaluated(numbers, scale, lambda b, x: chosen.activation(b, "f", function, x, span, to))
    exact = ACTIVATIONS[function](np.asarray(numbers * scale, np.float64))
    errors = np.abs(real - np.clip(exact, to.scale * (to.low - to.zero), to.scale * (to.high - to.zero)))
    return FunctionError(function, way, len(numbers), float(errors.max()), float(errors.mean()))


def exponential_error(way: str, largest_score: float) -> FunctionError:
    """Compare exp for each of the 65,535 differences that two scores can have.

    Args:
        way: how it is computed.
        largest_score: greatest magnitude of a score.
    """
    chosen = nonlinearity(way)
    unit, below = chosen.score_grid(largest_score).scale, np.arange(2 * SCORE_TOP + 1)
    _, real = evaluated(below, unit, lambda b, x: chosen.exponential(b, "f", x))
    errors = np.abs(real - np.exp(-below * unit))
    return FunctionError("exp", way, len(below), float(errors.max()), float(errors.mean()))


def square_root_error(way: str) -> FunctionError:
    """Compare roots, relative to the root, where a LayerNorm takes them: around every power of two and in between.

    Args:
        way: how it is computed.
    """
    numbers = np.unique(np.geomspace(2**16, 2**31 - 1, INPUTS).astype(np.int64))
    integers, _ = evaluated(numbers, None, lambda b, x: nonlinearity(way).square_root(b, "f", x))
    errors = np.abs(integers / np.sqrt(numbers) - 1)
    return FunctionError("square root (relative)", way, len(numbers), float(errors.max()), float(errors.mean()))


@lru_cache
def usual_error(function: str, way: str) -> FunctionError:
    """Return the error of a way where no model's ranges are known: scores up to 16, inputs of GELU up to 8.

    Args:
        function: `softmax`, `activation` or `norm`.
        way: how it is computed.
    """
    if function == "softmax":
        return exponential_error(way, USUAL_SCORE)
    if function == "activation":
        return activation_error(way, "gelu", USUAL_INPUT, Grid.spanning(SMALLEST_GELU, USUAL_INPUT[1], 16))
    return square_root_error(way)
