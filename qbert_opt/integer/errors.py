"""Errors of the methods for nonlinear functions, compared with the exact functions over the whole range of inputs."""

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
        function: name of the function, for example `gelu`.
        way: name of the method, for example `table`.
        inputs: number of inputs that were tried.
        largest: greatest absolute error, including the rounding of input and result; relative for the square root.
        mean: mean error, likewise.
    """

    function: str
    way: str
    inputs: int
    largest: float
    mean: float


def evaluated(
    numbers: NDArray[np.int64], scale: float | None, build: Callable[[Builder, Value], Value]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Run the operations that `build` adds; return the integers of the result and the real numbers they stand for.

    Args:
        numbers: integers of the input, one axis.
        scale: real number that one unit of the input stands for; None if it has none.
        build: adds operations that read the input, and returns the result.
    """
    x = Value("x", ("batch", "tokens"), int(numbers.min()), int(numbers.max()), scale)
    builder = Builder((x,), len(numbers))
    y = build(builder, x)
    program = builder.finish((Output("y", y.name),))
    integers = Reference(program).run({"x": numbers[None]})[y.name][0]
    return integers, (integers - y.zero) * (y.scale or 1.0)


def activation_error(way: str, function: Activation, span: tuple[float, float], to: Grid) -> FunctionError:
    """Compare an activation function with the exact one on 65,536 equally spaced inputs.

    Args:
        way: name of the method.
        function: name of the function.
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
    """Compare exp with the exact function for each of the 65,535 distances that two scores can have.

    Args:
        way: name of the method.
        largest_score: greatest magnitude of a score.
    """
    chosen = nonlinearity(way)
    unit, below = chosen.score_grid(largest_score).scale, np.arange(2 * SCORE_TOP + 1)
    _, real = evaluated(below, unit, lambda b, x: chosen.exponential(b, "f", x))
    errors = np.abs(real - np.exp(-below * unit))
    return FunctionError("exp", way, len(below), float(errors.max()), float(errors.mean()))


def square_root_error(way: str) -> FunctionError:
    """Compare square roots at up to 65,536 inputs in geometric progression from 2**16 to 2**31 - 1.

    Args:
        way: name of the method.

    Returns:
        Errors relative to the exact root.
    """
    numbers = np.unique(np.geomspace(2**16, 2**31 - 1, INPUTS).astype(np.int64))
    integers, _ = evaluated(numbers, None, lambda b, x: nonlinearity(way).square_root(b, "f", x))
    errors = np.abs(integers / np.sqrt(numbers) - 1)
    return FunctionError("square root (relative)", way, len(numbers), float(errors.max()), float(errors.mean()))


@lru_cache
def usual_error(function: str, way: str) -> FunctionError:
    """Return a method's error for when no model's ranges are known: scores up to 16, inputs of GELU from -8 to 8.

    Args:
        function: `softmax`, `activation` or `norm`.
        way: name of the method.
    """
    if function == "softmax":
        return exponential_error(way, USUAL_SCORE)
    if function == "activation":
        return activation_error(way, "gelu", USUAL_INPUT, Grid.spanning(SMALLEST_GELU, USUAL_INPUT[1], 16))
    return square_root_error(way)
