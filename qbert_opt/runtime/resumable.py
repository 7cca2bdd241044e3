"""Pieces of work that an interrupted run does not repeat, and that several processes share.

A job has a key and gives a list of numbers. Each finished job is one line of JSON in the progress file,
`[fingerprint of the run, key, numbers, checksum]`, so a line counts only if it is whole and of this very run. float64
survives the way through JSON: a resumed run gives the same bits.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..errors import QbertOptWarning, UsageError
from . import locks
from .distributed import Processes
from .files import atomic_file, check_folder, disk_error

MAX_LINE_BYTES = 1 << 26
CHECKSUM_DIGITS = 16


class ProgressWarning(QbertOptWarning):
    """Finished work in a progress file that cannot be used and is done again."""


class Jobs:
    """Finished jobs of one run. While it lasts, no other process can work with the same progress file.

    Args:
        path: progress file; None keeps progress in memory only.
        fingerprint: of everything that the results depend on; lines of another run are not used.
        processes: those that share the work; one by default.

    Attributes:
        processes: those that share the work.
        finished: what each finished job gave, by key.

    Raises:
        UsageError: another process works with the same progress file, or it cannot be read or written.

    Warns:
        ProgressWarning: some lines are damaged or of another run; those jobs are done again.
    """

    def __init__(self, path: str | Path | None, fingerprint: str, processes: Processes | None = None) -> None:
        self.processes = Processes() if processes is None else processes
        self.finished: dict[str, list[float]] = {}
        self._first = self._path = None if path is None else Path(path)
        self._fingerprint = fingerprint
        if self._path is None:
            return
        check_folder(self._path)
        if self.processes.rank == 0:
            locks.acquire(self._path)
        for file in self._files():  # also those of a run with another number of processes
            self._read(file)
        self.processes.wait()  # all have read before any writes
        if self.processes.rank:
            self._path = self._path.with_name(f"{self._path.name}.{self.processes.rank}")
        with atomic_file(self._path) as temporary:
            temporary.write_text("".join(self._line(key) for key in self.finished))

    def pending(self, keys: Sequence[str], costs: Sequence[float] | None = None) -> list[str]:
        """Return the keys of this process's share that are not finished.

        Args:
            keys: all jobs, the same ones in all processes.
            costs: of each job in any unit, to balance the shares; None counts all alike.
        """
        left = [i for i, key in enumerate(keys) if key not in self.finished]
        return [keys[left[i]] for i in self.processes.share([1.0 if costs is None else costs[i] for i in left])]

    def add(self, key: str, values: Sequence[float]) -> None:
        """Keep what a job gave, in the progress file too.

        Args:
            key: of the job.
            values: its result.

        Raises:
            UsageError: the progress file cannot be written.
        """
        self.finished[key] = list(values)
        if self._path is None:
            return
        try:
            with self._path.open("a") as file:
                file.write(self._line(key))
        except OSError as error:
            raise disk_error(self._path, error) from None

    def gather(self, keys: Sequence[str]) -> dict[str, list[float]]:
        """Return what every job gave, by key, whichever process did it; all processes must call this alike.

        Args:
            keys: all jobs, all finished.

        Raises:
            UsageError: another process has ended.
        """
        if self.processes.count > 1:
            self._exchange(keys)
        return {key: self.finished[key] for key in keys}

    def run(self, keys: Sequence[str], job: Callable[[str], Sequence[float]]) -> dict[str, list[float]]:
        """Do the jobs that are not finished, shared between the processes; all processes must call this alike.

        Args:
            keys: all jobs.
            job: does one of them and returns its result.

        Returns:
            What every job gave, by key.

        Raises:
            UsageError: the progress file cannot be written, or another process has ended.
        """
        for key in self.pending(keys):
            self.add(key, job(key))
        return self.gather(keys)

    def remove(self) -> None:
        """Forget the files: the run is complete."""
        self.processes.wait()
        if self.processes.rank == 0:
            for file in self._files():
                file.unlink(missing_ok=True)
            if self._first is not None:
                locks.release(self._first)

    def _exchange(self, keys: Sequence[str]) -> None:
        """Each process adds the rows that it has, and no process before it, to a table of zeros."""
        rank = self.processes.rank
        held = np.zeros((len(keys), self.processes.count))
        held[:, rank] = [key in self.finished for key in keys]
        mine = [row for row, owner in enumerate(self.processes.sum(held).argmax(1)) if owner == rank]
        widths = np.zeros(len(keys))
        widths[mine] = [len(self.finished[keys[row]]) for row in mine]
        widths = self.processes.sum(widths)
        table = np.zeros((len(keys), int(widths.max(initial=0))))
        for row in mine:
            table[row, : int(widths[row])] = self.finished[keys[row]]
        table = self.processes.sum(table)
        self.finished.update((key, table[row, : int(widths[row])].tolist()) for row, key in enumerate(keys))

    def _files(self) -> list[Path]:
        """The file of process 0 and those of the others, which end in their number."""
        if self._first is None:
            return []
        beside = (f for f in self._first.parent.glob("*") if f.name.startswith(f"{self._first.name}."))
        others = sorted(f for f in beside if f.suffix[1:].isdigit() and f.stem == self._first.name)
        return [f for f in (self._first, *others) if f.is_file()]

    def _line(self, key: str) -> str:
        row = [self._fingerprint, key, self.finished[key]]
        return json.dumps([*row, _checksum(row)]) + "\n"

    def _read(self, path: Path) -> None:
        """Take the jobs of this run from a progress file; say how many lines are of no use."""
        unused = 0
        try:
            with path.open("rb") as file:
                while line := file.readline(MAX_LINE_BYTES):
                    row = _parsed(line, self._fingerprint)
                    if row is None:
                        unused += 1
                    else:
                        self.finished[row[0]] = row[1]
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror or error}.") from None
        if unused and self.processes.rank == 0:
            warnings.warn(
                f"{path}: {unused} of its lines are damaged, of another run or of another version; that work is done "
                "again.",
                ProgressWarning,
                stacklevel=3,
            )


def _parsed(line: bytes, fingerprint: str) -> tuple[str, list[float]] | None:
    """Key and numbers of a line of this run; None for any other line."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # cut off, or not even UTF-8
        return None
    if not isinstance(row, list) or len(row) != 4 or row[0] != fingerprint or row[3] != _checksum(row[:3]):
        return None
    return row[1], row[2]


def _checksum(row: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(row).encode()).hexdigest()[:CHECKSUM_DIGITS]
