"""Progress with an ETA on stderr: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..runtime.progress import Progress as Reporter
from ..runtime.progress import silent

SECONDS_BETWEEN_LINES = 15.0


@contextmanager
def progress(title: str, *, quiet: bool = False) -> Iterator[Reporter]:
    """Give a function to call with steps done, steps in all, and what goes on."""
    if quiet:
        yield silent
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (TextColumn(title), BarColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.fields[what]}"), console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=None, what="")
            yield lambda done, total, what: bar.update(task, completed=done, total=total, what=what)
    else:
        yield _lines(title)


def _lines(title: str) -> Reporter:
    started = time.monotonic()
    last = -SECONDS_BETWEEN_LINES

    def tell(done: int, total: int, what: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES or done == total:
            last = now
            left = f", {(now - started) / done * (total - done):.0f} s left" if done else ""
            print(f"{title}: {done}/{total} {what} ({now - started:.0f} s{left})", file=sys.stderr)

    return tell
