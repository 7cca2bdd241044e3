"""Results of tasks in folders named by their keys: `CACHE/STEP/KEY` exists completely or not at all.

A task's result is made in `STEP/KEY.making` under the lock of its key. If two sweeps that share a cache need the same
result, the second waits and uses what the first made. If the lock is free, a process was killed: the next one resumes
from the files that it left, as far as the step can.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from pydantic import Field

from ..errors import BusyError
from ..runtime.files import disk_error, read_document
from ..runtime.frozen import Amount, Frozen
from ..runtime.locks import sole_writer
from .task import Task

SCHEMA = "qbert-opt/task@1"
RECORD = "task.json"
BEGUN = ".begun"
WAIT_S = 0.2
HEARTBEAT_S = 0.5


class Record(Frozen):
    """What is recorded of a finished task beside its result.

    Attributes:
        task: the task that was done.
        status: `made`, or `infeasible` if no plan meets the limits, which is a result too.
        reason: why it is infeasible.
        notes: warnings.
        cpu_s: processor time, including child processes.
        wall_s: elapsed time.
        lost_s: elapsed time that a killed attempt spent on work that had to be done again.
    """

    document_schema: str = Field(default=SCHEMA, alias="schema")
    task: Task
    status: Literal["made", "infeasible"] = "made"
    reason: str = ""
    notes: tuple[str, ...] = ()
    cpu_s: Amount = 0.0
    wall_s: Amount = 0.0
    lost_s: Amount = 0.0


@dataclass(frozen=True, slots=True)
class Cache:
    """Results by key.

    Attributes:
        path: the folder; all workers must see it under this path.
    """

    path: Path

    def folder(self, step: str, key: str) -> Path:
        """Return the folder that contains the result of a task once it is finished.

        Args:
            step: step of the task.
            key: key of the task.
        """
        return self.path / step / key

    def record(self, task: Task) -> Record | None:
        """Return the record of a finished task; None if it is not finished.

        Args:
            task: the task.

        Raises:
            InputFileError: the record is damaged.
        """
        path = self.folder(task.step, task.key) / RECORD
        return read_document(path, Record, SCHEMA) if path.is_file() else None

    def make(
        self, task: Task, kept: Sequence[str], make: Callable[[Path], Record]
    ) -> tuple[Record, bool]:  # fmt: skip
        """Make the result of a task, unless it exists already or another sweep makes it.

        Args:
            task: what to make.
            kept: name patterns of files that a killed attempt leaves for the next one to resume from.
            make: writes the result into a folder.

        Returns:
            The record of the finished task, and whether this call made it.

        Raises:
            QbertOptError: `make` raised it, or the cache cannot be written.
        """
        target = self.folder(task.step, task.key)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(target, error) from None
        while True:
            if (found := self.record(task)) is not None:
                return found, False
            with ExitStack() as stack:
                try:
                    stack.enter_context(sole_writer(target))
                except BusyError:  # another sweep makes it
                    time.sleep(WAIT_S)
                    continue
                if (found := self.record(task)) is not None:
                    return found, False
                try:
                    return self._made(task, target, kept, make), True
                except OSError as error:
                    if error.errno == errno.ENOSPC:
                        raise disk_error(target, error) from None
                    raise

    def _made(self, task: Task, target: Path, kept: Sequence[str], make: Callable[[Path], Record]) -> Record:
        making = target.with_name(f"{target.name}.making")
        lost_s = _lost_s(making)
        making.mkdir(exist_ok=True)
        for left in making.iterdir():
            if not any(fnmatch(left.name, pattern) for pattern in kept):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        with _heartbeat(making / BEGUN):
            record = make(making)
        record = record.model_copy(update={"lost_s": lost_s})
        (making / RECORD).write_text(record.model_dump_json(by_alias=True, indent=1) + "\n", encoding="utf-8")
        (making / BEGUN).unlink()
        making.replace(target)
        return record


@contextmanager
def _heartbeat(path: Path) -> Iterator[None]:
    """Update a file's modification time periodically, so that it shows when a killed process was last alive.

    The file contains the time at which the work began.
    """
    path.write_text(f"{time.time():.3f}", encoding="utf-8")
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT_S):
            with suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)  # it ended by itself, so a kill lost nothing
        raise
    finally:
        over.set()
        thread.join()


def _lost_s(making: Path) -> float:
    """Return the seconds that a killed attempt worked after it last saved progress; 0 if no attempt was killed."""
    begun = making / BEGUN
    try:
        start, end = float(begun.read_text(encoding="utf-8")), begun.stat().st_mtime
    except (OSError, ValueError):
        return 0.0
    saved = [path.stat().st_mtime for path in making.iterdir() if path.is_file() and path != begun]
    return max(0.0, end - max([start, *(time for time in saved if time <= end)]))
