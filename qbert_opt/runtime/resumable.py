"""Pieces of work that an interrupted run does not repeat, and that several processes share.

A job has a key and gives a list of numbers. What is finished stands as JSON lines in a file, behind a first line that
says of which run it is; float64 survives the way through JSON, so a resumed run gives the same bits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from .distributed import Processes
from .files import check_folder, disk_error


class Jobs:
    """Finished jobs of one run.

    Attributes:
        processes: those that share the work.
        finished: what each finished job gave, by key.
    """

    def __init__(self, path: str | Path | None, fingerprint: str, processes: Processes | None = None) -> None:
        self.processes = Processes() if processes is None else processes
        self.finished: dict[str, list[float]] = {}
        self._first = self._path = None if path is None else Path(path)
        if self._path is None:
            return
        check_folder(self._path)
        for file in self._files():  # also those of a run with another number of processes
            self._read(file, fingerprint)
        self.processes.wait()  # all have read before any writes
        if self.processes.rank:
            self._path = self._path.with_name(f"{self._path.name}.{self.processes.rank}")
        self._write("w", fingerprint, *(json.dumps(row) for row in self.finished.items()))

    def pending(self, keys: Sequence[str], costs: Sequence[float] | None = None) -> list[str]:
        """Keys of this process's share that are not finished; `costs` balance the shares."""
        left = [i for i, key in enumerate(keys) if key not in self.finished]
        return [keys[left[i]] for i in self.processes.share([1.0 if costs is None else costs[i] for i in left])]

    def add(self, key: str, values: Sequence[float]) -> None:
        """Keep what a job gave."""
        self.finished[key] = list(values)
        self._write("a", json.dumps([key, self.finished[key]]))

    def gather(self, keys: Sequence[str]) -> dict[str, list[float]]:
        """What every job gave, whichever process did it."""
        if self.processes.count > 1:
            self._exchange(keys)
        return {key: self.finished[key] for key in keys}

    def run(self, keys: Sequence[str], job: Callable[[str], Sequence[float]]) -> dict[str, list[float]]:
        """Do the jobs that are not finished, shared between the processes; all processes must call this alike."""
        for key in self.pending(keys):
            self.add(key, job(key))
        return self.gather(keys)

    def remove(self) -> None:
        """Forget the files: the run is complete."""
        self.processes.wait()
        if self.processes.rank == 0:
            for file in self._files():
                file.unlink(missing_ok=True)

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

    def _read(self, file: Path, fingerprint: str) -> None:
        lines = file.read_text().splitlines()
        if not lines or lines[0] != fingerprint:
            return
        for line in lines[1:]:
            try:
                key, values = json.loads(line)
            except ValueError:
                break  # the run was stopped inside this line
            self.finished[key] = values

    def _write(self, mode: str, *lines: str) -> None:
        if self._path is None:
            return
        try:
            with self._path.open(mode) as file:
                file.writelines(line + "\n" for line in lines)
        except OSError as error:
            raise disk_error(self._path, error) from None
