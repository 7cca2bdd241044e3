"""The protocol of methods for nonlinear functions in integers; each is one file in `nonlinearities`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ..runtime.plugins import load_as
from .builder import Builder, Grid
from .operations import Value

EXP_BITS = 15
EXP_ONE = 1 << EXP_BITS
"""The integer that stands for `exp(0) = 1`."""
SCORE_TOP = 32767  # greatest magnitude of an attention score, which has 16 bits
USUAL_SCORE = 16.0  # greatest magnitude of an attention score, assumed if no model's ranges are known
USUAL_INPUT = (-8.0, 8.0)  # range of GELU's inputs, likewise
SMALLEST_GELU = -0.17  # minimum of GELU, rounded down
Activation = Literal["gelu", "gelu_new", "tanh"]

_erf = np.vectorize(math.erf)


def _gelu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    exact: NDArray[np.float64] = 0.5 * x * (1 + _erf(x / math.sqrt(2)))
    return exact


def _gelu_new(x: NDArray[np.float64]) -> NDArray[np.float64]:
    approximate: NDArray[np.float64] = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return approximate


ACTIVATIONS: Mapping[Activation, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "gelu": _gelu,
    "gelu_new": _gelu_new,
    "tanh": np.tanh,
}
"""The functions in real numbers. `gelu_new` is the approximation of GELU by tanh, at most 4.7e-4 from GELU."""


class Nonlinearity(Protocol):
    """A method for exp, GELU, tanh and the square root in integers."""

    def activation(
        self, builder: Builder, name: str, function: Activation, x: Value, span: tuple[float, float], to: Grid
    ) -> Value:
        """Apply an activation function element by element.

        Args:
            builder: builder of the program.
            name: name of the result.
            function: name of the function.
            x: numbers of up to 32 bits.
            span: least and greatest real number that x stands for on the calibration set.
            to: grid of the result.
        """
        ...

    def score_grid(self, largest: float) -> Grid:
        """Return the grid on which attention scores are held.

        Args:
            largest: greatest magnitude of a score.
        """
        ...

    def exponential(self, builder: Builder, name: str, below: Value) -> Value:
        """Return `exp(-below)` as integers from 0 to `EXP_ONE`.

        Args:
            builder: builder of the program.
            name: name of the result.
            below: distances of scores from the greatest of their row, 0 to 65,535, on the scale of `score_grid`.
        """
        ...

    def square_root(self, builder: Builder, name: str, a: Value) -> Value:
        """Return the integer square root, exact or approximate, of numbers of at least 1.

        Args:
            builder: builder of the program.
            name: name of the result.
            a: the numbers.
        """
        ...


def nonlinearity(name: str) -> Nonlinearity:
    """Load a method for nonlinear functions.

    Args:
        name: `table`, `poly`, `shift` or the name of a plug-in.

    Raises:
        UsageError: no method has this name.
    """
    return load_as("nonlinearities", name, Nonlinearity)
