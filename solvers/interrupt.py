"""Ctrl-C while native code runs: Python sees a signal only between its own instructions; an engine takes minutes."""

import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")
_LOOK_S = 0.05
_PATIENCE_S = 5.0


def interruptible(work: Callable[[], Result], stop: Callable[[], None] | None = None) -> Result:
    """Run work that releases Python's lock in a thread of its own and wait for it, so that Ctrl-C is answered at once.

    Outside the main thread, where no signal arrives, the work is simply run.

    Args:
        work: What takes long.
        stop: Tells it to end soon; without it, interrupted work goes on in a daemon thread until the process ends.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    results: list[Result] = []
    errors: list[BaseException] = []
    done = threading.Event()  # an interrupted Thread.join takes the thread for finished (CPython issue 90882)

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # handed to the caller, whatever it is
            errors.append(error)
        finally:
            done.set()

    threading.Thread(target=run, daemon=True).start()
    try:
        while not done.wait(_LOOK_S):
            pass
    except BaseException:
        if stop is not None:
            stop()
            done.wait(_PATIENCE_S)
        raise
    if errors:
        raise errors[0]
    return results[0]
