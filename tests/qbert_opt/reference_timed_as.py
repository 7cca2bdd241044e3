"""Measurements without a process that imports torch and transformers only to time a reference."""

from functools import cache
from pathlib import Path

from qbert_opt.engines.timing import time_model


def reference_timed_as(folder, monkeypatch):
    """Time a folder truly, once, and let every other folder take its times: nothing is asserted of those.

    Args:
        folder: what is measured.
        monkeypatch: of the test.
    """
    timed = cache(time_model)

    def time(given, *, engine_name=None, **options):
        own = Path(given) == Path(folder)
        return timed(folder, engine_name=engine_name if own else None, **options)

    monkeypatch.setattr("qbert_opt.serving.measuring.time_model", time)
