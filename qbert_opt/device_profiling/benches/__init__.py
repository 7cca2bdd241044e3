"""Engines that can be timed; one file each, named after the engine.

A bench returns calls without arguments that run an operation or a small model in that engine.
"""

from __future__ import annotations

from ...errors import UsageError
from ...runtime.plugins import load_as
from ..bench import Bench, BenchModule


def find_bench(engine: str, precision: str | None) -> Bench:
    """Return the bench of an engine.

    Args:
        engine: name of a file in `device_profiling/benches`.
        precision: one of the engine's `PRECISIONS`; None is the first.

    Raises:
        UsageError: there is no such engine, it does not support the precision, or it is not installed.
    """
    module = load_as("benches", engine, BenchModule)
    precision = precision or module.PRECISIONS[0]
    if precision not in module.PRECISIONS:
        raise UsageError(f"`precision` {precision}: not supported by {engine}. Legal: {', '.join(module.PRECISIONS)}.")
    return module.bench(precision)
