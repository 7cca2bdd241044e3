"""What a way to compute the nonlinear functions must define: one file of `nonlinearities`."""

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
SCORE_TOP = 32767  # attention scores have 16 bits, so their differences have 65,536 magnitudes
USUAL_SCORE = 16.0  # greatest magnitude of an attention score, where no model's ranges are known
USUAL_INPUT = (-8.0, 8.0)  # of GELU, likewise
SMALLEST_GELU = -0.17
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
"""The functions in real numbers. `gelu_new` is the form with tanh, at most 4.7e-4 from the exact one."""


class Nonlinearity(Protocol):
    """A way to compute them in integers."""

    def activation(
        self, builder: Builder, name: str, function: Activation, x: Value, span: tuple[float, float], to: Grid
    ) -> Value:
        """Apply a function element by element.

        Args:
            builder: of the program.
            name: of the result.
            function: which one.
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
            builder: of the program.
            name: of the result.
            below: distances of scores from the greatest of their row, 0 to 65,535, on the scale of `score_grid`.
        """
        ...

    def square_root(self, builder: Builder, name: str, a: Value) -> Value:
        """Return the integer square root of numbers from 1."""
        ...


def nonlinearity(name: str) -> Nonlinearity:
    """Load a way to compute nonlinear functions.

    Args:
        name: `table`, `poly` or `shift`.

    Raises:
        UsageError: there is no such one.
    """
    return load_as("nonlinearities", name, Nonlinearity)
