"""Writes figures to files, completely or not at all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import UsageError
from ...runtime.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDINGS = (".png", ".svg")


def check_ending(path: str | Path, parameter: str = "plot") -> None:
    """Refuse a plot's file name before any work is done.

    Args:
        path: file to write, `.png` or `.svg`.
        parameter: which parameter names it, for the message.

    Raises:
        UsageError: the ending is unknown.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in ENDINGS:
        raise UsageError(f"`{parameter}` {path}: unknown ending {suffix!r}. Legal: {', '.join(ENDINGS)}.")


def save(figure: Figure, path: str | Path, parameter: str = "plot") -> None:
    """Write a figure at 160 dots per inch; the same figure always gives the same bytes.

    Args:
        figure: the figure to write.
        path: file to write, `.png` or `.svg`.
        parameter: which parameter names it, for the message.

    Raises:
        UsageError: the ending is unknown.
    """
    from matplotlib import rc_context

    check_ending(path, parameter)
    suffix = Path(path).suffix.lower()
    metadata = {"Date": None} if suffix == ".svg" else {}
    with atomic_file(path) as temporary, rc_context({"svg.hashsalt": "qbert-opt"}):
        figure.savefig(temporary, format=suffix[1:], dpi=160, metadata=metadata)
        if suffix == ".svg":
            temporary.write_text(_shortened(temporary.read_text("utf-8")), "utf-8")


def _shortened(svg: str) -> str:
    """Cut the coordinates of paths to a thousandth of a point; further digits cannot be seen and double the file."""
    return re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d{3})\d+", r"\1", path[0]), svg)
