"""Ctrl-C while a compiled library works: it is answered when the library has returned."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from solvers.search.interrupt import interruption

STOPPING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def native_code() -> Iterator[None]:
    """Hold signals back while native code runs, and undo what it did to how signals are delivered.

    An exception must not cross native code, which ends the process. OpenVINO also leaves the thread with an alternate
    signal stack of 12 kB, less than the registers of newer processors need: every later signal would end the process
    too. Outside the main thread, where no signal is handled, nothing is done.

    Raises:
        KeyboardInterrupt: Ctrl-C arrived meanwhile.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with interruption():
        held = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        stack = (ctypes.c_long * 4)()  # a `stack_t`, whatever the order of its fields
        _libc().sigaltstack(None, stack)
        try:
            yield
        finally:
            _libc().sigaltstack(stack, None)
            signal.pthread_sigmask(signal.SIG_SETMASK, held)


@cache
def _libc() -> ctypes.CDLL:
    """The C library, opened once: opening takes a quarter of the whole."""
    return ctypes.CDLL(None)
