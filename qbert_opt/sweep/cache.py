"""Results of tasks in folders named by their keys: `CACHE/STEP/KEY`, there completely or not at all.

A task is made in `STEP/KEY.making` under the lock of its key, so that two sweeps on one cache make it once: the second
waits and finds it. What a killed process left is recognized by its free lock, and goes on where the step can.
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
    """What a finished task left in its folder besides its result.

    Attributes:
        task: what was made, from what.
        status: `infeasible` is a result too: no plan meets the limits.
        reason: why it is infeasible.
        notes: warnings.
        cpu_s: processor time, that of child processes included.
        wall_s: elapsed time.
        lost_s: elapsed time of attempts that were killed, as far as their work was done again.
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
        """Where the result of a task is, once it is finished."""
        return self.path / step / key

    def record(self, task: Task) -> Record | None:
        """Return the record of a finished task; None if it is not finished.

        Raises:
            InputFileError: a damaged record.
        """
        path = self.folder(task.step, task.key) / RECORD
        return read_document(path, Record, SCHEMA) if path.is_file() else None

    def make(
        self, task: Task, kept: Sequence[str], make: Callable[[Path], Record]
    ) -> tuple[Record, bool]:  # fmt: skip
        """Return the record of a task that is finished, here, by another sweep, or before; and whether it was here.

        Args:
            task: what to make.
            kept: patterns of the names that a killed attempt leaves for the next one.
            make: writes the result into a folder.

        Raises:
            QbertOptError: as `make`; or the cache cannot be written.
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
    """Keep a file's time of change at the present, so that it says when a killed process was last alive.

    Its content is the time at which the work began.
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
        path.unlink(missing_ok=True)  # it ended by itself: nothing was lost to a kill
        raise
    finally:
        over.set()
        thread.join()


def _lost_s(making: Path) -> float:
    """Seconds that a killed attempt worked after the last progress that it left; 0 if there was none."""
    begun = making / BEGUN
    try:
        start, end = float(begun.read_text(encoding="utf-8")), begun.stat().st_mtime
    except (OSError, ValueError):
        return 0.0
    saved = [path.stat().st_mtime for path in making.iterdir() if path.is_file() and path != begun]
    return max(0.0, end - max([start, *(time for time in saved if time <= end)]))
