"""Ctrl-C while native code runs: Python acts on a signal only between its own instructions; an engine takes minutes."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interruption() -> Iterator[threading.Event]:
    """Within, Ctrl-C sets the event that is given instead of raising; KeyboardInterrupt follows at the end.

    An exception must not cross native code, so an engine that calls back into Python looks at the event and ends by
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
