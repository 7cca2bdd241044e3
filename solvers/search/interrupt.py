"""Ctrl-C while native code runs.

Python handles signals only between its own instructions, and an engine may run for minutes.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interruption() -> Iterator[threading.Event]:
    """Make Ctrl-C set the yielded event instead of raising; KeyboardInterrupt follows when the context ends.

    An exception must not cross native code, so an engine that calls back into Python checks the event and stops
    itself. Outside the main thread, where no signal arrives, the event is never set.
    """
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def stop(_number: int, _frame: Any) -> None:
        stopped.set()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
    if stopped.is_set():
        raise KeyboardInterrupt
