"""Integers only: programs that `qbert-opt integer` makes, run by the int64 reference, exact on every machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from ...formats.affine import AffineMatrix
from ...integer.folder import read_program
from ...integer.reference import Reference
from ...spec.forms import Form
from ..rules import EngineRules, TableRules
from ..session import Activations, Arrays, Session

INSTALL = "pip install qbert-opt"
FORMAT = None
NO_EXPORT = "is made with 'qbert-opt integer FOLDER --data TEXT -o OUT', because its ranges need calibration text."
_FORMS: tuple[Form, ...] = ("offset", "symmetric", "signed", "zero-point", "ternary")
RULES = EngineRules(
    forms=_FORMS,
    tables=TableRules(forms=_FORMS, tiers=False),
    integer_inputs={"gemm": (8, 16), "matmul": (8, 16)},
    anywhere=True,
    fewer_heads=False,
    integer_functions=True,
    static_bits=(8, 16),
    sources=(
        "codes of any width and grouping, one requantization per output row: qbert_opt/integer/matrices.py",
        "static inputs of 8 and 16 bits; queries, keys and values of 8: qbert_opt/integer/compiler.py",
        "on every device: C99 without dependencies, from 'qbert-opt integer --emit c'; what is priced is the device's "
        "matrix unit, to which its products have to be mapped",
        "no codebooks, whose values are no integers times a scale",
    ),
)


def usable() -> bool:
    """It needs numpy only."""
    return True


def label() -> str:
    """Name and version."""
    return f"integers in numpy {np.__version__}"


def open_model(folder: Path, threads: int | None = None, activations: Activations = "planned") -> Session:
    """Read a program; numpy takes the threads that its library has."""
    return _Running(folder)


def product(
    matrix: AffineMatrix | NDArray[np.float32], threads: int | None = None, activations: Activations = "planned"
) -> Session:
    """Refuse: a product alone has no integer form, because its result has no range.

    Raises:
        UsageError: always.
    """
    raise UsageError("`engine` integer: runs whole programs, no single product.")


class _Running:
    def __init__(self, folder: Path) -> None:
        self._reference = Reference(read_program(folder))

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        program = self._reference.program
        for value in program.inputs:
            array = inputs[value.name]
            if array.shape[1] > program.max_tokens or array.min() < value.low or array.max() > value.high:
                raise UsageError(
                    f"{value.name}: {array.shape[1]} tokens from {array.min()} to {array.max()}; the program reads up "
                    f"to {program.max_tokens} tokens from {value.low} to {value.high}."
                )
        return dict(program.answers(self._reference.run(inputs)))
