"""Entry point: turns errors, signals and closed or full outputs into one line and an exit code.

Exit codes: 0 done, 2 usage or an output that cannot be written, 3 infeasible, 4 bad input file, 1 a bug of ours,
130 interrupted (Ctrl-C), 143 terminated. Only what Python has loaded anyway is imported above `run`, so that Ctrl-C is
answered from the first moment on.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # type checkers know this name; importing typing would take time
if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType
    from typing import Any

INTERRUPTED = 128 + int(signal.SIGINT)
TERMINATED = 128 + int(signal.SIGTERM)
UNWRITABLE = 2
UNREADABLE = 4
AGAIN_S = 0.02
SHOWN = 5  # most outputs that a message names


class _Stop:
    """Whether a signal asked us to stop, and with which exit code."""

    def __init__(self) -> None:
        self.code = 0

    def interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self.code = self.code or INTERRUPTED
        raise KeyboardInterrupt

    def terminate(self, _number: int, _frame: FrameType | None) -> None:
        self.code = TERMINATED
        signal.raise_signal(signal.SIGINT)  # code that guards native calls against Ctrl-C handles SIGINT only

    def swallowed(self, unraisable: Any) -> None:
        """Interrupt again a moment later: Python drops exceptions raised in a finalizer or a callback of an import."""
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        else:
            sys.__unraisablehook__(unraisable)


def run() -> None:
    """Run the command line and leave with its exit code."""
    stop = _Stop()
    before, unraisable = _listen(stop), sys.unraisablehook
    sys.unraisablehook = stop.swallowed if before else unraisable
    try:
        code = _guarded(stop)
    finally:
        sys.unraisablehook = unraisable
        _release_locks()
        for number, handler in before.items():
            signal.signal(number, handler)
    if code:
        sys.exit(code)


def _release_locks() -> None:
    """Release the locks of all outputs of this run."""
    from ..runtime import locks

    locks.release_all()


def _listen(stop: _Stop) -> dict[signal.Signals, Any]:
    """Handle the signals that stop a run, and return the previous handlers. Only the main thread receives signals."""
    handlers = {signal.SIGINT: stop.interrupt, signal.SIGALRM: stop.interrupt, signal.SIGTERM: stop.terminate}
    try:
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    except ValueError:  # not the main thread; asking for the thread would import more before Ctrl-C is handled
        return {}
    return {number: signal.SIG_DFL if handler is None else handler for number, handler in before.items()}


def _guarded(stop: _Stop) -> int:
    """Run, and say in one line what ended it."""
    try:
        code = _verb()
        sys.stdout.flush()
        return code
    except BaseException as error:
        # an error that a library raised because of Ctrl-C still counts as Ctrl-C
        if stop.code or any(isinstance(cause, KeyboardInterrupt) for cause in _causes(error)):
            return _stopped(stop.code or INTERRUPTED, error)
        said = _said(error)
        if said is None:
            raise
        return said


def _verb() -> int:
    """Run the verb, with output streams that replace characters that they cannot encode."""
    import warnings

    from ..runtime.plain_text import READABLE

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=READABLE)
    from ..errors import QbertOptWarning
    from ..runtime.files import forget_written
    from .app import app

    forget_written()

    warnings.showwarning = _warn
    warnings.filterwarnings("default", category=QbertOptWarning)
    code = app(standalone_mode=False)
    if code == INTERRUPTED:  # typer's exit code for Ctrl-C
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


def _warn(message: Warning | str, *_where: object, **_more: object) -> None:
    """Print a warning without its position in the code."""
    from .flags import in_flags

    _complain(f"warning: {in_flags(str(message))}")


def _said(error: BaseException) -> int | None:
    """Say in one line what went wrong and return the exit code; None if it is a bug of ours."""
    import hwmodels

    from ..errors import QbertOptError
    from ..runtime.plain_text import one_line
    from .flags import in_flags

    if isinstance(error, (QbertOptError, hwmodels.DeviceError)):
        _complain(one_line(in_flags(str(error))) + _written())
        return error.exit_code
    if isinstance(error, SystemExit) and any(isinstance(cause, BrokenPipeError) for cause in _causes(error)):
        _discard(sys.stdout)  # typer and rich raise this for a closed pipe
        return 0
    if isinstance(error, OSError):
        return _output_failed(error)
    if isinstance(error, MemoryError):
        remedy = "Free some, raise the limit of this process (ulimit -v), or use a smaller model."
        _complain(f"not enough memory. {remedy}{_written()}")
        return UNWRITABLE
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        from .parser_errors import parser_line

        if error.format_message():
            _complain(parser_line(error, sys.argv[1:]))
        return int(error.exit_code)  # a group without a verb has printed its help
    return None


def _stopped(code: int, error: BaseException) -> int:
    how = "terminated" if code == TERMINATED else "interrupted"
    notes = [note for cause in _causes(error) for note in getattr(cause, "__notes__", ())]
    kept = [str(path) for path in _locked_files() if not any(str(path) in note for note in notes)]
    if kept:
        notes.append(f"finished work is kept in {', '.join(kept)}: the same command resumes from there")
    _complain("; ".join([f"{how}; nothing half-written is left", *dict.fromkeys(notes)]) + f".{_written()}")
    return code


def _written() -> str:
    """Return a sentence that names the outputs that are complete although the run failed; empty if there are none."""
    from ..runtime.files import written
    from ..runtime.plain_text import one_line

    shown = [one_line(str(path)) for path in written()]
    if not shown:
        return ""
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return f" Written before that, and complete: {', '.join(shown[:SHOWN])}{more}."


def _locked_files() -> list[Path]:
    """Return the progress files of this run."""
    from ..runtime import locks

    return [path for path in locks.held() if path.is_file()]


def _causes(error: BaseException | None) -> list[BaseException]:
    """Return an error with all errors that caused it."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def _output_failed(error: OSError) -> int | None:
    """Report a full disk or a name that the system refuses; a reader such as `head` that stops early is no error."""
    import errno

    if error.filename is not None and error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        name = str(error.filename)
        _complain(f"{name if len(name) < 120 else f'{name[:60]}…{name[-60:]}'}: cannot be opened: {error.strerror}.")
        return UNREADABLE
    of_streams = (errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EBADF, errno.EFBIG)
    if error.filename is not None or error.errno not in of_streams:
        return None
    _discard(sys.stdout)
    if error.errno == errno.EPIPE:
        return 0
    _complain(f"the output cannot be written: {error.strerror}.{_written()}")
    return UNWRITABLE


def _discard(stream: object) -> None:
    """Discard what is still buffered, so that Python does not report an error about it on exit."""
    try:
        number = stream.fileno()  # type: ignore[attr-defined]
    except (OSError, ValueError, AttributeError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


def _complain(line: str) -> None:
    try:
        print(f"qbert-opt: {line}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        _discard(sys.stderr)
