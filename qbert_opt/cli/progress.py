"""Progress on stderr with an estimate of the time left: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..runtime.progress import Progress as Reporter
from ..runtime.progress import silent

SECONDS_BETWEEN_LINES = 15.0
RECENT_S = 60.0  # steps differ in cost, so the pace of the last minute predicts better than that of the first
LEAST_STEPS = 3  # no estimate is made from fewer steps


class TimeLeft:
    """An estimate of the seconds left, from the pace of the last minute.

    When the count starts over (fewer steps done, or another total), a new estimate begins.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()
        self._total = 0

    def estimate(self, now: float, done: int, total: int) -> float | None:
        """Return the seconds left after another report; None if it is too early to tell, or all steps are done.

        Args:
            now: current time of a clock, in seconds.
            done: number of steps done.
            total: number of all steps.
        """
        if total != self._total or (self._seen and done < self._seen[-1][1]):
            self._seen.clear()
            self._total = total
        if not self._seen or done > self._seen[-1][1]:
            self._seen.append((now, done))
        while len(self._seen) > LEAST_STEPS + 1 and now - self._seen[1][0] > RECENT_S:
            self._seen.popleft()
        since, first = self._seen[0]
        if done >= total or done - first < LEAST_STEPS or now <= since:
            return None
        # `now`, not the time of the last step, so that the estimate grows while a step takes long
        return (now - since) / (done - first) * (total - done)


@contextmanager
def progress(title: str, *, quiet: bool = False, resume: str | Path | None = None) -> Iterator[Reporter]:
    """Provide a function to call with the number of steps done, the number of all steps, and the current step.

    Args:
        title: name of the work.
        quiet: report nothing.
        resume: the file that keeps finished steps; Ctrl-C then says how to resume from it.
    """
    try:
        with _reporting(title, quiet) as tell:
            yield tell
    except KeyboardInterrupt as stop:
        if resume is not None and Path(resume).is_file():
            stop.add_note(f"finished work is kept in {resume}: the same command resumes from there")
        raise


@contextmanager
def _reporting(title: str, quiet: bool) -> Iterator[Reporter]:
    if quiet:
        yield silent
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        texts = (TextColumn("{task.fields[left]}", markup=False), TextColumn("{task.fields[what]}", markup=False))
        columns = (TextColumn(title, markup=False), BarColumn(), TimeElapsedColumn(), *texts)
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=None, what="", left="")
            clock = TimeLeft()

            def tell(done: int, total: int, what: str) -> None:
                left = left_text(clock.estimate(time.monotonic(), done, total), done, total)
                bar.update(task, completed=done, total=total, what=_plain(what), left=left)

            yield tell
    else:
        yield _lines(title)


def left_text(seconds: float | None, done: int, total: int) -> str:
    """Return the time left as text, rounded to what the estimate is worth.

    Args:
        seconds: an estimate; None if there is none yet.
        done: number of steps done.
        total: number of all steps.
    """
    if done >= total:
        return "finishing"
    if seconds is None:
        return ""
    if seconds < 60:
        return f"about {max(5, 5 * round(seconds / 5))} s left"
    if seconds < 3600:
        return f"about {round(seconds / 60)} min left"
    return f"about {seconds / 3600:.1f} h left"


def _plain(text: str) -> str:
    from ..runtime.plain_text import one_line

    return one_line(text)


def _lines(title: str) -> Reporter:
    started = time.monotonic()
    last = started - SECONDS_BETWEEN_LINES
    clock = TimeLeft()

    def tell(done: int, total: int, what: str) -> None:
        nonlocal last
        now = time.monotonic()
        left = left_text(clock.estimate(now, done, total), done, total)
        if now - last >= SECONDS_BETWEEN_LINES or done == total:
            last = now
            after = f", {left}" if left else ""
            print(f"{title}: {done}/{total} {_plain(what)} ({now - started:.0f} s{after})", file=sys.stderr, flush=True)

    return tell
