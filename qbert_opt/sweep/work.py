"""What a worker does with a task: it finds the result in the cache, or makes it with the step's verb."""

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
        cache: contains the results.
        progress: called as the step advances.
    """

    task: Task
    cache: Cache
    progress: Progress = silent

    def input(self, *steps: str) -> Path:
        """Return the folder of an input of the task.

        Args:
            *steps: steps in order of preference; the first one that is an input counts.
        """
        step = next(step for step in steps if step in self.task.inputs)
        return self.cache.folder(step, self.task.inputs[step])


class Step(Protocol):
    """A file in `sweep/steps`.

    Attributes:
        KEPT: name patterns of files that a killed attempt leaves in the folder for the next one to resume from.
    """

    KEPT: Sequence[str]

    def make(self, work: Work, folder: Path, /) -> None:
        """Write the verb's result.

        Args:
            work: the task and its inputs.
            folder: where to write; empty except for files that match `KEPT`.
        """
        ...


class Result(Frozen):
    """How a task ended.

    Attributes:
        key: key of the task.
        step: step of the task, or of the earlier task whose failure ruled it out.
        status: `made` now, `found` in the cache, `infeasible`, `failed`, or `stopped` if the cache cannot be written.
        reason: one line; empty if it succeeded.
        bug: whether the error is a bug of ours rather than the user's mistake.
        cpu_s: processor time spent in this run.
        lost_s: elapsed time that a killed attempt spent on work that this run did again.
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
        """Whether later steps can use its result."""
        return self.status in ("made", "found")


def code() -> str:
    """Return release and commit of the code that runs here."""
    return f"{code_version()} {code_commit()}"


def perform(document: str, cache: str, threads: int, *before: str) -> str:
    """Do a task, unless an earlier one failed; a user's mistake is returned as a result, not raised.

    Args:
        document: the `Task` as JSON.
        cache: folder of the cache.
        threads: threads of torch.
        before: results of the tasks that it depends on, each a `Result` as JSON.

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
        reason = f"this worker runs qbert-opt {code()}, the sweep {task.code}. Install the same version on all workers."
        return Result(key=task.key, step=task.step, status="failed", reason=reason)
    try:
        step: Step = import_module(f".steps.{task.step}", __package__)
        record, here = cache.make(task, step.KEPT, lambda folder: _made(task, cache, step, folder, threads))
    except FullDiskError as error:
        return Result(key=task.key, step=task.step, status="stopped", reason=str(error))
    except QbertOptError as error:
        return Result(key=task.key, step=task.step, status="failed", reason=str(error))
    except Exception as error:  # one model's failure must not end the others; the row says that it is a bug
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        return Result(key=task.key, step=task.step, status="failed", reason=reason, bug=True)
    return result_of(record, made=here)


def result_of(record: Record, *, made: bool) -> Result:
    """Return the result of a task that has a record in the cache.

    Args:
        record: the task's record.
        made: whether the task was done now.
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
    """Read texts and check that they have not changed since the sweep began.

    Args:
        path: the fields of `sweep.request.Texts`.
        sha256: hash of the texts when the sweep began.

    Raises:
        InputFileError: the texts cannot be read, or have changed since the sweep began.
    """
    texts = read_texts(
        path["path"], text_columns=path["text_column"], label_column=path["label_column"], split=path["split"]
    )
    if texts.sha256 != sha256:
        raise InputFileError(f"{path['path']}: changed while the sweep was running. Start the sweep again.")
    return texts
