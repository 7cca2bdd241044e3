"""What a worker does with a task: find its result in the cache, or make it with the step's verb."""

from __future__ import annotations

import resource
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

from ..data.texts import LabeledTexts, read_texts
from ..errors import FullDiskError, InfeasibleError, InputFileError, QbertOptError, QbertOptWarning
from ..runtime.frozen import Frozen
from ..runtime.progress import Progress, silent
from ..runtime.provenance import code_commit, code_version
from .cache import Cache, Record
from .task import Task


@dataclass(frozen=True, slots=True)
class Work:
    """A task with the results that it reads.

    Attributes:
        task: what to make.
        cache: where results are.
        progress: called as the step goes on.
    """

    task: Task
    cache: Cache
    progress: Progress = silent

    def input(self, *steps: str) -> Path:
        """Return the folder of the result that it reads, of the first of these steps that it has."""
        step = next(step for step in steps if step in self.task.inputs)
        return self.cache.folder(step, self.task.inputs[step])


class Step(Protocol):
    """A file in `sweep/steps`.

    Attributes:
        KEPT: patterns of the names that a killed attempt leaves in the folder for the next one.
    """

    KEPT: Sequence[str]

    def make(self, work: Work, folder: Path, /) -> None:
        """Write the verb's result into an empty folder, or one with what `KEPT` names."""
        ...


class Result(Frozen):
    """How a task ended.

    Attributes:
        key: of the task.
        step: of the task; of the task that failed, where that is one before it.
        status: `made` now, `found` in the cache, `infeasible`, `failed`, or `stopped`: the cache cannot be written.
        reason: one line; empty where it went well.
        bug: an error that is not the user's.
        cpu_s: processor time spent now.
        lost_s: elapsed time of killed attempts that was made up for now.
        notes: warnings.
    """

    key: str
    step: str
    status: Literal["made", "found", "infeasible", "failed", "stopped"]
    reason: str = ""
    bug: bool = False
    cpu_s: float = 0.0
    lost_s: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def has_result(self) -> bool:
        """Whether later steps can go on from it."""
        return self.status in ("made", "found")


def code() -> str:
    """Release and commit of the code that runs here."""
    return f"{code_version()} {code_commit()}"


def perform(document: str, cache: str, threads: int, *before: str) -> str:
    """Do a task, unless one before it failed; every mistake of the user's is a result, not an exception.

    Args:
        document: the `Task` as JSON.
        cache: folder of the cache.
        threads: of torch.
        before: results of the tasks that it reads, each a `Result` as JSON.

    Returns:
        The `Result` as JSON.
    """
    task = Task.model_validate_json(document)
    for earlier in map(Result.model_validate_json, before):
        if not earlier.has_result:
            return earlier.model_copy(update={"key": task.key, "cpu_s": 0.0, "lost_s": 0.0}).model_dump_json()
    return _performed(task, Cache(Path(cache)), threads).model_dump_json()


def _performed(task: Task, cache: Cache, threads: int) -> Result:
    if task.code != code():
        reason = f"this worker runs qbert-opt {code()}, the sweep {task.code}. Install the same on all workers."
        return Result(key=task.key, step=task.step, status="failed", reason=reason)
    try:
        step: Step = import_module(f".steps.{task.step}", __package__)
        record, here = cache.make(task, step.KEPT, lambda folder: _made(task, cache, step, folder, threads))
    except FullDiskError as error:
        return Result(key=task.key, step=task.step, status="stopped", reason=str(error))
    except QbertOptError as error:
        return Result(key=task.key, step=task.step, status="failed", reason=str(error))
    except Exception as error:  # one model must not end the others; the row says that it is a bug
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        return Result(key=task.key, step=task.step, status="failed", reason=reason, bug=True)
    return result_of(record, made=here)


def result_of(record: Record, *, made: bool) -> Result:
    """Return how a task ended whose record is in the cache.

    Args:
        record: of the task.
        made: whether it was made now.
    """
    return Result(
        key=record.task.key,
        step=record.task.step,
        status="infeasible" if record.status == "infeasible" else "made" if made else "found",
        reason=record.reason,
        cpu_s=record.cpu_s if made else 0.0,
        lost_s=record.lost_s if made else 0.0,
        notes=record.notes,
    )


def _made(task: Task, cache: Cache, step: Step, folder: Path, threads: int) -> Record:
    import torch

    torch.set_num_threads(threads)
    clock, began = time.perf_counter(), _cpu_s()
    found: Mapping[str, Any] = {}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", category=QbertOptWarning)
        try:
            step.make(Work(task, cache), folder)
        except InfeasibleError as error:
            found = {"status": "infeasible", "reason": str(error)}
    notes = tuple(dict.fromkeys(str(warning.message) for warning in said))
    return Record(
        task=task, notes=notes, cpu_s=_cpu_s() - began, wall_s=time.perf_counter() - clock, **found
    )  # fmt: skip


def _cpu_s() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def read_given(path: Mapping[str, Any], sha256: str) -> LabeledTexts:
    """Read texts that a task has the hash of.

    Args:
        path: the fields of `sweep.request.Texts`.
        sha256: hash of the texts when the sweep began.

    Raises:
        InputFileError: unreadable, or other texts than when the sweep began.
    """
    texts = read_texts(
        path["path"], text_columns=path["text_column"], label_column=path["label_column"], split=path["split"]
    )
    if texts.sha256 != sha256:
        raise InputFileError(f"{path['path']}: changed while the sweep runs. Start the sweep again.")
    return texts
