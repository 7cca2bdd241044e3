"""Look up solvers by name: the files in `methods/`, and entry points of other packages."""

import pkgutil
import sys
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from .methods import SolverMethod
from .model.errors import SolverError

ENTRY_POINTS = "qbert_opt.solvers"
"""Group of the entry points by which another package adds solvers: `name = "package.module:METHOD"`."""
_FOLDER = Path(__file__).parent / "methods"


def available() -> tuple[str, ...]:
    """Return the names of all solvers, sorted; imports none of them.

    Raises:
        SolverError: Two solvers have the same name.

    >>> "ilp" in available()
    True
    """
    return tuple(sorted(_known()))


def describe() -> dict[str, tuple[str, bool]]:
    """Return for each solver one line about it, and whether it can be used here.

    A solver that cannot be loaded is listed with the reason.

    Raises:
        SolverError: Two solvers have the same name.
    """
    lines = {}
    for name in available():
        try:
            loaded = method(name)
        except SolverError as error:
            lines[name] = (str(error), False)
        else:
            lines[name] = (loaded.about, loaded.usable())
    return lines


def method(name: str) -> SolverMethod:
    """Return the solver of this name.

    Args:
        name: One of `available()`.

    Raises:
        SolverError: There is no such solver, it cannot be loaded, or it is not a `SolverMethod`.
    """
    known = _known()
    if name not in known:
        raise SolverError(f"solver: {name!r} is unknown. Choose one of {', '.join(sorted(known))}.")
    point = known[name]
    try:
        loaded = point.load()
    except Exception as error:  # a third-party module may raise anything
        reason = f"{type(error).__name__}: {error}"
        raise SolverError(f"solver {name!r}: {_origin(point)} cannot be loaded. {reason}") from error
    if not isinstance(loaded, SolverMethod):
        raise SolverError(
            f"solver {name!r}: {_origin(point)} is a {type(loaded).__name__}, which lacks about, usable, label or run. "
            "Give an object that has all four."
        )
    return loaded


def _known() -> dict[str, EntryPoint]:
    """Return all solvers as entry points, including those of this package.

    Raises:
        SolverError: Two solvers have the same name.
    """
    package = f"{__package__}.methods"
    ours = [
        EntryPoint(module.name, f"{package}.{module.name}:METHOD", ENTRY_POINTS)
        for module in pkgutil.iter_modules([str(_FOLDER)])
    ]
    known: dict[str, EntryPoint] = {}
    for point in [*ours, *_installed(tuple(sys.path))]:
        if point.name in known and known[point.name].value != point.value:
            both = f"{_origin(known[point.name])} and {_origin(point)}"
            raise SolverError(f"solver {point.name!r}: names both {both}. Uninstall one of the two packages.")
        known[point.name] = point
    return known


@lru_cache(maxsize=1)
def _installed(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Return the solvers of other packages on this `sys.path`; every package is read, so once rather than per solve."""
    return tuple(entry_points(group=ENTRY_POINTS))


def _origin(point: EntryPoint) -> str:
    """Return where a solver comes from: object and distribution."""
    return point.value if point.dist is None else f"{point.value} of {point.dist.name}"
