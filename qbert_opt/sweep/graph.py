"""The tasks of a sweep: every combination is a chain of steps, and chains share the tasks that they have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from ..costs.devices import load_device
from ..data.texts import LabeledTexts, read_texts
from ..errors import QbertOptError
from ..runtime.progress import Progress, silent
from .content import device_sha256, folder_sha256
from .request import Budget, Model, Sweep, Target, Texts
from .task import Task, make_task
from .work import code


@dataclass(frozen=True, slots=True)
class Combination:
    """One row of the table.

    Attributes:
        model: name of the model in the table.
        folder: folder of the model.
        data: path of the calibration set.
        test_data: path of the held-out text that it is measured on; None if nothing is measured.
        metric: estimator of the loss.
        method: quantizer.
        target: device and engine.
        budget: limits.
        tasks: tasks in the order of their steps; none if the model or a text cannot be read.
        fault: why it cannot be read; empty if it can.
    """

    model: str
    folder: str
    data: str
    test_data: str | None
    metric: str
    method: str
    target: Target
    budget: Budget
    tasks: tuple[Task, ...] = ()
    fault: str = ""


@dataclass(slots=True)
class _Contents:
    """Hashes of models, texts and devices, each read once; a mistake becomes a row of every combination with it."""

    progress: Progress
    total: int
    known: dict[Any, str | QbertOptError] = field(default_factory=dict)

    def of(self, what: Any, name: str, read: Callable[[], str]) -> str:
        if what not in self.known:
            self.progress(len(self.known), max(self.total, len(self.known) + 1), f"reading {name}")
            try:
                self.known[what] = read()
            except QbertOptError as error:
                self.known[what] = error
        found = self.known[what]
        if isinstance(found, QbertOptError):
            raise found
        return found

    def texts(self, texts: Texts) -> str:
        return self.of(texts, texts.path, lambda: _read(texts).sha256)


def combinations(sweep: Sweep, progress: Progress = silent) -> list[Combination]:
    """Return every combination with its tasks; this only hashes models, texts and devices.

    Args:
        sweep: content of the sweep file.
        progress: called when a model or text is read.
    """
    contents = _Contents(progress, len(sweep.models) + len(sweep.data or ()) + 1)
    version = code()
    rows = []
    for model in sweep.models:
        texts = product(model.data or sweep.data or (), sweep.metrics, sweep.methods, sweep.devices, sweep.budgets)
        for data, metric, method, target, budget in texts:
            row = Combination(
                str(model.name), model.folder, data.path, _tested(sweep, model), metric, method, target, budget
            )
            try:
                tasks = tuple(_chain(sweep, model, data, metric, method, target, budget, contents, version))
                rows.append(replace(row, tasks=tasks))
            except QbertOptError as error:
                rows.append(replace(row, fault=str(error)))
    return rows


def distinct(rows: list[Combination]) -> list[Task]:
    """Return every task once, each after the tasks that it depends on, with the early steps of all models first.

    Args:
        rows: result of `combinations`.
    """
    by_key: dict[str, Task] = {}
    depth: dict[str, int] = {}
    for row in rows:
        for number, task in enumerate(row.tasks):
            by_key.setdefault(task.key, task)
            depth[task.key] = max(depth.get(task.key, 0), number)
    return sorted(by_key.values(), key=lambda task: depth[task.key])


def _chain(
    sweep: Sweep,
    model: Model,
    data: Texts,
    metric: str,
    method: str,
    target: Target,
    budget: Budget,
    contents: _Contents,
    version: str,
) -> Iterator[Task]:
    """Yield the tasks of one combination in order."""
    folder, sha256 = model.folder, contents.of(model.folder, model.folder, lambda: folder_sha256(model.folder))
    texts = contents.texts(data)
    paths = {"model": folder, "data": data.model_dump()}

    def task(step: str, inputs: Mapping[str, Task], options: Mapping[str, Any], paths: Mapping[str, Any]) -> Task:
        return make_task(step, f"{step} {model.name}", inputs, options, paths, version)

    same = ("bits", "groupings", "forms", "activation_bits", "calibration_samples", "scoring_samples", "max_tokens")
    options = {"model": sha256, "data": texts, "metric": metric, "method": method, "seed": sweep.seed}
    score = task("score", {}, options | {name: getattr(sweep, name) for name in same}, paths)
    yield score
    device, name = target.device, target.device
    hashed = None if name is None else contents.of(target, name, lambda: device_sha256(load_device(name)))
    workload = {name: getattr(sweep, name) for name in ("seq_len", "batch_size", "context", "cache_bits")}
    options = {"device": hashed, "engine": target.engine, "budget": budget.model_dump(), **workload}
    solve = task("solve", {"score": score}, options, {"device": device})
    yield solve
    if sweep.until == "solve":
        return
    last = task("quantize", {"solve": solve}, {"data": texts}, paths)
    yield last
    if sweep.recover is not None:
        training = sweep.recover.model_dump(exclude={"data"})
        training["training"] = [contents.texts(item) for item in sweep.recover.data]
        where = {"model": folder, "training": [item.model_dump() for item in sweep.recover.data]}
        last = task("recover", {"quantize": last}, training, where)
        yield last
    if target.engine is not None and sweep.until != "quantize":
        last = task("export", {last.step: last}, {"engine": target.engine}, {})
        yield last
    if sweep.until == "measure":
        held_out = model.test_data or sweep.test_data
        if held_out is not None:
            options = {"test_data": contents.texts(held_out)}
            yield task("measure", {last.step: last}, options, {"model": folder, "test_data": held_out.model_dump()})


def _read(texts: Texts) -> LabeledTexts:
    return read_texts(
        texts.path, text_columns=texts.text_column, label_column=texts.label_column, split=texts.split
    )  # fmt: skip


def _tested(sweep: Sweep, model: Model) -> str | None:
    held_out = model.test_data or sweep.test_data
    return held_out.path if sweep.until == "measure" and held_out is not None else None
