"""What every engine gives: a model that takes token ids and answers with arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..runtime import plugins

Arrays = dict[str, NDArray[Any]]

Activations = Literal["int8", "int8-coarse", "planned", "float32"]
"""What products do with their inputs: round them to 8 bits in fine blocks, in coarser ones (faster), in the ranges that
the plan found on calibration text, or not at all."""
ACTIVATIONS: tuple[Activations, ...] = get_args(Activations)


class Session(Protocol):
    """A compiled model."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Return the outputs by name, float32, of inputs by name."""
        ...


def engine(name: str) -> Any:
    """Load an engine's module.

    Raises:
        UsageError: there is no such engine, or its package is not installed; says how to install it.
    """
    module = plugins.load("engines", name)
    if not module.usable():
        raise UsageError(f"--engine {name}: the package is not installed. Install it with: {module.INSTALL}")
    return module


def difference(reference: NDArray[np.floating], found: NDArray[np.floating]) -> float:
    """Max |found - reference| / max |reference|; infinite where shapes differ or something is not finite."""
    if found.shape != reference.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - reference).max() / max(float(np.abs(reference).max()), 1e-30))
