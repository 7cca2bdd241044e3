"""Run a sweep: find finished tasks, do the others on Dask, write one table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputFileError
from ..runtime.files import check_folder, disk_error
from ..runtime.progress import Progress, silent
from .cache import Cache
from .cluster import Workers, check_address, check_installed, check_workers, connected, run_tasks
from .graph import combinations, distinct
from .reader import read_sweep
from .request import Sweep
from .table import Row, table, write_tables
from .task import Task
from .work import Result, result_of

ARTIFACTS = "artifacts"


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep found.

    Attributes:
        rows: one row for each combination.
        files: the files that were written.
        folder: folder of the tables.
        num_tasks: number of distinct tasks.
        num_found: number of tasks that were in the cache, or are ruled out by an infeasible one that was.
        num_run: number of tasks that this run did; the others are ruled out by an infeasible or failed earlier one.
        cpu_s: processor time of the tasks that this run did.
        lost_s: elapsed time that killed workers spent on work that was done again.
    """

    rows: tuple[Row, ...]
    files: tuple[Path, ...]
    folder: Path
    num_tasks: int
    num_found: int
    num_run: int
    cpu_s: float
    lost_s: float

    @property
    def failed(self) -> tuple[Row, ...]:
        """Rows that failed."""
        return tuple(row for row in self.rows if row.status == "failed")


def sweep(
    source: str | Path | Sweep,
    output: str | Path,
    *,
    cache: str | Path | None = None,
    workers: Workers | None = None,
    client: Any = None,
    progress: Progress = silent,
) -> Swept:
    """Score, plan, quantize, export and measure every combination of a sweep file, each step once.

    Every step's result is the file or folder that the single command writes, kept in the cache under the hash of
    everything that it depends on. A killed sweep resumes from the cache, and other sweeps may use the same cache.

    Args:
        source: a sweep file, or its content.
        output: folder of the tables, which is created; tables of an earlier run are replaced.
        cache: folder of results; by default `artifacts` in the output.
        workers: local processes or a scheduler; by default a process for each core.
        client: a Dask client of your own to use instead of `workers`, for example of dask-jobqueue.
        progress: called with the number of tasks done, the number of all tasks, and the task that ended.

    Returns:
        The rows of the table, the files that were written, and what the run took.

    Raises:
        InputFileError: the sweep file has a mistake; a model that cannot be read becomes a failed row instead.
        UsageError: the output or the cache cannot be written, the scheduler cannot be reached, or a worker runs other
            code or does not see the cache.
    """
    workers = workers or Workers()
    if client is None:
        check_installed()
        if workers.scheduler is not None:
            check_address(workers.scheduler)
    content = source if isinstance(source, Sweep) else read_sweep(source)
    folder = Path(output).absolute()
    store = Cache(folder / ARTIFACTS if cache is None else Path(cache).absolute())
    for path in (folder, store.path):
        _create(path)
    rows = combinations(content, progress)
    tasks = distinct(rows)
    known = _finished(tasks, store)
    if len(known) == len(tasks):
        results = known
    else:
        with _going_on(store.path), nullcontext(client) if client is not None else connected(workers) as used:
            check_workers(used, store.path)
            results = run_tasks(used, tasks, known, store.path, workers.threads, progress)
    found = table(rows, results, store)
    files = write_tables(found, folder)
    fresh = [(task, results[task.key]) for task in tasks if task.key not in known]
    return Swept(
        rows=tuple(found),
        files=tuple(files),
        folder=folder,
        num_tasks=len(tasks),
        num_found=len(known) + sum(result.status == "found" for _, result in fresh),
        num_run=sum(result.step == task.step and result.status != "found" for task, result in fresh),
        cpu_s=sum(result.cpu_s for result in results.values()),
        lost_s=sum(result.lost_s for result in results.values()),
    )


@contextmanager
def _going_on(cache: Path) -> Iterator[None]:
    """Say on Ctrl-C which work is kept."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note(f"finished steps are kept in {cache}: the same command resumes from there")
        raise


def _create(path: Path) -> None:
    check_folder(path)
    try:
        path.mkdir(exist_ok=True)
    except FileExistsError:
        raise InputFileError(f"{path}: is a file. Give a folder.") from None
    except OSError as error:
        raise disk_error(path, error) from None


def _finished(tasks: Sequence[Task], cache: Cache) -> dict[str, Result]:
    """Return how finished tasks ended, including the tasks that an infeasible one rules out."""
    known: dict[str, Result] = {}
    for task in tasks:
        before = [known[key] for key in task.inputs.values() if key in known]
        ruled_out = next((result for result in before if result.status == "infeasible"), None)
        if ruled_out is not None:
            known[task.key] = ruled_out.model_copy(update={"key": task.key})
        elif (record := cache.record(task)) is not None:
            known[task.key] = result_of(record, made=False)
    return known
