"""One writer for each output: a second process that wants the same output is refused before it does any work.

The lock is the operating system's (`fcntl.lockf` on a hidden file beside the output), so it ends with the process that
holds it, however that process ends. A lock file left behind by a killed process holds nobody up. Who holds the lock
stands in the file, for the message.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import BusyError, QbertOptWarning, UsageError

BUSY = (errno.EACCES, errno.EAGAIN)
MAX_HOLDER_BYTES = 200

_held: dict[Path, tuple[int, Path]] = {}  # file descriptor and output, by lock file


@contextmanager
def sole_writer(target: str | Path) -> Iterator[None]:
    """Hold the right to write an output, against other processes and against the rest of this one.

    Args:
        target: file or folder that will be written.

    Raises:
        BusyError: somebody is writing it.
        UsageError: its folder cannot be written.
    """
    if lock_file(target) in _held:
        raise _busy(target, "this process")
    acquire(target)
    try:
        yield
    finally:
        release(target)


def acquire(target: str | Path) -> None:
    """Take the right to write an output until `release`, or until this process ends; it may be taken again.

    Args:
        target: file or folder that will be written.

    Warns:
        QbertOptWarning: the file system has no locks, so nobody is kept out.

    Raises:
        BusyError: another process is writing it.
        UsageError: its folder cannot be written.
    """
    path = lock_file(target)
    while path not in _held:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise UsageError(f"{target}: cannot be written: {error.strerror or error}.") from None
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(handle, MAX_HOLDER_BYTES).decode(errors="replace").strip()
            os.close(handle)
            if error.errno in BUSY:
                raise _busy(target, holder) from None
            warnings.warn(
                f"{target}: cannot be locked ({error.strerror or error}). Start no second run with this output.",
                QbertOptWarning,
                stacklevel=2,
            )
            return
        if _is_same_file(handle, path):
            os.ftruncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            _held[path] = (handle, Path(target))
        else:
            os.close(handle)  # its holder removed it between our opening and our locking


def release(target: str | Path) -> None:
    """Give the right to write an output back; nothing happens where this process does not hold it.

    Args:
        target: what `acquire` was called with.
    """
    path = lock_file(target)
    if path in _held:
        with suppress(FileNotFoundError):
            path.unlink()  # first, so that an interrupt here leaves something to release again
        handle, _ = _held.pop(path)
        os.close(handle)


def held() -> tuple[Path, ...]:
    """Outputs that this process has the right to write."""
    return tuple(target for _, target in _held.values())


def lock_file(target: str | Path) -> Path:
    """The hidden file beside an output that carries its lock.

    Args:
        target: file or folder that will be written.
    """
    path = Path(target).absolute()
    return path.with_name(f".{path.name}.lock")


@atexit.register
def release_all() -> None:
    """Give every right back, at the end of a run however it ended."""
    for target in held():
        release(target)


def _busy(target: str | Path, holder: str) -> BusyError:
    return BusyError(
        f"{target}: is being written by another run ({holder or 'unknown process'}). Wait for it, stop it, or give "
        "another output."
    )


def _is_same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
