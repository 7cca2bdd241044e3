"""Engines that can be timed, one file each; the file's name is the engine's.

A bench gives calls without arguments whose CPU time is what an operation or a small model costs in that engine.
"""

from __future__ import annotations

from ...errors import UsageError
from ...runtime.plugins import load_as
from ..bench import Bench, BenchModule


def find_bench(engine: str, precision: str | None) -> Bench:
    """Return the bench of an engine, in its first precision where none is named.

    Raises:
        UsageError: no such engine, a precision that it does not run, or the engine is not installed.
    """
    module = load_as("benches", engine, BenchModule)
    precision = precision or module.PRECISIONS[0]
    if precision not in module.PRECISIONS:
        raise UsageError(f"`precision` {precision}: not run by {engine}. Legal: {', '.join(module.PRECISIONS)}.")
    return module.bench(precision)
