"""Solvers by name: each file in `methods/` is one."""

import ast
import importlib
import pkgutil
from pathlib import Path
from typing import Protocol, cast

from .errors import SolverError
from .outcome import Limits, Outcome
from .program import Program

_FOLDER = Path(__file__).parent / "methods"


class Method(Protocol):
    """What a file in `methods/` gives."""

    def usable(self) -> bool:
        """Say whether the packages that it needs are installed."""

    def label(self) -> str:
        """Return name and version."""

    def run(self, program: Program, limits: Limits) -> Outcome:
        """Solve a presolved program."""


def available() -> tuple[str, ...]:
    """Return the names of all solvers, sorted; imports none of them.

    >>> "ilp" in available()
    True
    """
    return tuple(sorted(module.name for module in pkgutil.iter_modules([str(_FOLDER)])))


def describe() -> dict[str, tuple[str, bool]]:
    """Return for each solver its one-line description and whether it can be used here."""
    return {name: (_first_line(name), method(name).usable()) for name in available()}


def method(name: str) -> Method:
    """Return the solver of this name.

    Raises:
        SolverError: There is none.
    """
    if name not in available():
        raise SolverError(f"solver: {name!r} is unknown. Choose one of {', '.join(available())}.")
    return cast(Method, importlib.import_module(f".methods.{name}", __package__))


def _first_line(name: str) -> str:
    docstring = ast.get_docstring(ast.parse((_FOLDER / f"{name}.py").read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]
