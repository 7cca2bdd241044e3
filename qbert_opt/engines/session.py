"""The interface of an engine: a model that takes token ids and returns arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..formats.affine import AffineMatrix
from ..formats.format import ACTIVATIONS, Activations, Format, file_format
from ..runtime.plugins import load_as
from .rules import EngineRules

__all__ = [
    "ACTIVATIONS",
    "Activations",
    "Arrays",
    "Engine",
    "RuledEngine",
    "Session",
    "check_activations",
    "engine",
    "exporting_format",
    "rules_of",
]

Arrays = dict[str, NDArray[Any]]


class Session(Protocol):
    """A compiled model."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Return the float32 outputs by name.

        Args:
            inputs: token arrays `[B, T]` by name.
        """
        ...


class RuledEngine(Protocol):
    """What can be planned for, one file of `engines/backends`.

    Attributes:
        RULES: which choices it can run, and at what price.
    """

    RULES: EngineRules


class Engine(RuledEngine, Protocol):
    """An engine that runs here, one file of `engines/backends`. Only the conversion may import torch.

    Attributes:
        INSTALL: the command that installs it.
        FORMAT: the file format that it opens, a file of `formats/writers`; None where `export` does not write for it,
            and then `NO_EXPORT` says why or what to do instead. An engine whose files hold a tokenizer of their own has
            a function `misread` too, by which `export` compares what that tokenizer reads.
    """

    INSTALL: str
    FORMAT: str | None

    def usable(self) -> bool:
        """Whether its package is installed."""
        ...

    def label(self) -> str:
        """Name and version."""
        ...

    def open_model(self, folder: Path, threads: int | None = None, activations: Activations = "int8") -> Session:
        """Open a written model.

        Args:
            folder: as `export` wrote it; the quantized folder itself for an engine without a format.
            threads: processor threads; None lets the engine choose.
            activations: how inputs of products are held: `int8`, or `float32`.

        Returns:
            A session that maps token arrays, int64 `[batch, tokens]`, to outputs by name, float32.
        """
        ...

    def product(
        self,
        matrix: AffineMatrix | NDArray[np.float32],
        threads: int | None = None,
        activations: Activations = "int8",
    ) -> Session:
        """Open a single matrix product that maps `{"x": [M, columns]}` to `{"y": [M, rows]}`.

        Args:
            matrix: codes with their ranges, or float32 `[rows, columns]`.
            threads: processor threads; None lets the engine choose.
            activations: how `x` is held: `int8`, or `float32`.
        """
        ...


def engine(name: str, option: str = "engine") -> Engine:
    """Load an engine.

    Args:
        name: for example `openvino`; its package must be installed.
        option: the parameter that names it, for messages.

    Raises:
        UsageError: there is no such engine, it can only be planned for, or its package is not installed; says what to
            do.
    """
    instead = rules_of(name).planning_only
    if instead:
        raise UsageError(f"`{option}` {name}: can be planned for only, there is no runtime for it here. {instead}")
    module = load_as("engines", name, Engine)
    if not module.usable():
        raise UsageError(f"`{option}` {name}: the package is not installed. Install it with: {module.INSTALL}")
    return module


def rules_of(name: str) -> EngineRules:
    """Return what an engine can run; its package need not be installed.

    Args:
        name: for example `openvino`.

    Raises:
        UsageError: there is no such engine.
    """
    return load_as("engines", name, RuledEngine).RULES


def check_activations(activations: str | None) -> None:
    """Refuse an unknown name for how an engine rounds inputs.

    Args:
        activations: one of `ACTIVATIONS`; None leaves it open.

    Raises:
        UsageError: lists the legal ones.
    """
    if activations not in (None, *ACTIVATIONS):
        raise UsageError(f"`activations` {activations}: legal: {', '.join(ACTIVATIONS)}.")


def exporting_format(name: str) -> Format:
    """Return the file format that an engine opens.

    Args:
        name: of an engine that opens files.

    Raises:
        UsageError: there is no such engine, it is not installed, or `export` does not write for it.
    """
    module = engine(name)
    format_name = module.FORMAT
    if format_name is None:
        raise UsageError(f"`engine` {name}: {getattr(module, 'NO_EXPORT', 'needs no export.')}")
    return file_format(format_name)
