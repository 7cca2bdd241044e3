"""The whole trade-off of a planning task: least predicted loss over every budget of one resource or two."""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from solvers import ChoiceProblem, Frontier, FrontierPoint, pareto, price, relative_gap, uniform_plans

from ..errors import UsageError
from ..jobs import Jobs
from ..profiles import ModelProfile
from ..scores import Provenance
from .programs import PlanningTask
from .wishes import RESOURCES

SCHEMA = "qbert-opt/frontier@1"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class TradeOffPoint(_Frozen):
    """One plan on the frontier.

    Attributes:
        capacity: budget of each resource on the searched matrices.
        usage: what the plan uses of every resource, on the searched matrices.
        predicted_loss: no plan within `capacity` has less than `lower_bound`.
        supported: on the convex hull.
        choices: name of each matrix' choice, in the order of the profile's matrices.
        tables: name of each scored embedding table's choice, in the order of the scores.
    """

    capacity: dict[str, float]
    usage: dict[str, float]
    predicted_loss: float
    lower_bound: float
    gap: float
    supported: bool
    choices: tuple[str, ...]
    tables: tuple[str, ...] = ()


class UniformPoint(_Frozen):
    """A plan that gives every matrix one choice, for comparison."""

    choice: str
    usage: dict[str, float]
    predicted_loss: float


class OwnLimit(_Frozen):
    """A limit on a resource of the frontier itself: the frontier goes on beyond it, where the plans break it.

    Attributes:
        resource: which one, by the names of `usage`.
        capacity: what the limit leaves to the searched matrices.
        source: who asked, for example `car-soc: limits.weights`.
    """

    resource: str
    capacity: float
    source: str


class TradeOff(_Frozen):
    """A frontier with what it is of.

    Attributes:
        fixed: what everything that is not searched uses.
        own_limits: limits on the frontier's own resources; they do not end it.
    """

    document_schema: str = Field(default=SCHEMA, alias="schema")
    resources: tuple[str, ...]
    loss_unit: str
    device: str | None
    complete: bool
    runtime_s: float
    fixed: dict[str, float]
    points: tuple[TradeOffPoint, ...]
    uniform: tuple[UniformPoint, ...]
    own_limits: tuple[OwnLimit, ...] = ()
    profile: ModelProfile
    provenance: Provenance


def trade_off(
    task: PlanningTask,
    resources: tuple[str, ...],
    *,
    points: int = 200,
    checkpoint: str | Path | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> TradeOff:
    """Find the least predicted loss over budgets of one or two resources, under the task's other limits.

    Latency and energy are their separable bounds here: the schedule is never slower.

    Args:
        task: scores, limits and hardware; a limit on a resource of the frontier itself is ignored.
        resources: names in `RESOURCES`.
        points: evenly spaced budgets between floor and ceiling; supported plans come on top.
        checkpoint: file for finished points; an interrupted run goes on from it.
        progress: called with budgets done, budgets in all, and what goes on.

    Raises:
        UsageError: an unknown resource, or one that needs a device.
    """
    for name in resources:
        if name not in RESOURCES:
            raise UsageError(f"--resource {name}: legal: {', '.join(RESOURCES)}.")
        if name not in ("bytes", "total-bytes") and task.device is None:
            raise UsageError(f"--resource {name}: needs --device to be priced on.")
    rows = tuple(RESOURCES[name] for name in resources)
    capacity = {name: limit for name, limit in task.capacity().items() if name not in rows}
    problem = task.problem(capacity)
    jobs = Jobs(checkpoint, _fingerprint(problem, rows, points))
    known = Frontier(rows, tuple(_read_point(problem, row, rows) for row in jobs.finished.values()), False, 0.0)
    asked = points if len(rows) == 1 else math.ceil(math.sqrt(points)) ** 2
    done = sum(not point.supported for point in known.points)

    def keep(point: FrontierPoint) -> None:
        nonlocal done
        done += not point.supported
        progress(min(done, asked), asked, "budgets")
        if checkpoint is not None:
            jobs.add(repr(sorted(point.capacity.items())), _point_numbers(point, rows))

    resource = rows[0] if len(rows) == 1 else (rows[0], rows[1])
    found = pareto(problem, resource, points=points, known=known, on_point=keep)
    jobs.remove()
    return TradeOff(
        resources=resources,
        loss_unit=task.scores.loss_unit,
        device=None if task.device is None else task.device.id,
        complete=found.complete,
        runtime_s=found.runtime_s,
        fixed=task.tables.fixed,
        points=tuple(_point(task, point) for point in found.points),
        uniform=tuple(
            UniformPoint(choice=plan.name.removeprefix("uniform "), usage=dict(plan.usage), predicted_loss=plan.value)
            for plan in uniform_plans(_best_tables(task, problem))
            if not plan.broken
        ),
        own_limits=tuple(
            OwnLimit(resource=name, capacity=row.capacity, source=row.source)
            for name, row in task.hard.items()
            if name in rows
        ),
        profile=task.profile,
        provenance=task.scores.provenance,
    )


def _best_tables(task: PlanningTask, problem: ChoiceProblem) -> ChoiceProblem:
    """Give the scored tables their best choice, so that a uniform plan differs in its matrices only."""
    value = np.where(problem.mask(), problem.value, np.inf)[task.num_matrices :]
    names = (item.module for item in task.searched_tables)
    return replace(problem, pins={name: problem.options[row.argmin()] for name, row in zip(names, value, strict=True)})


def to_csv(found: TradeOff) -> str:
    """Write the points as CSV: budgets, usage, loss, bound, gap."""
    names = sorted({name for point in found.points for name in point.usage})
    budgets = [RESOURCES[name] for name in found.resources]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header = [f"budget_{name}" for name in budgets] + names
    writer.writerow([*header, "predicted_loss", "lower_bound", "gap", "supported"])
    for point in found.points:
        figures: list[Mapping[str, float]] = [point.capacity, point.usage]
        values = [figures[0].get(name, "") for name in budgets] + [figures[1][name] for name in names]
        writer.writerow([*values, point.predicted_loss, point.lower_bound, point.gap, point.supported])
    return out.getvalue()


def _point(task: PlanningTask, point: FrontierPoint) -> TradeOffPoint:
    names = tuple(task.choices[j].name for j in point.choice)
    return TradeOffPoint(
        capacity=dict(point.capacity),
        usage=dict(point.usage),
        predicted_loss=point.value,
        lower_bound=point.lower_bound,
        gap=point.gap,
        supported=point.supported,
        choices=names[: task.num_matrices],
        tables=names[task.num_matrices :],
    )


def _fingerprint(problem: ChoiceProblem, rows: tuple[str, ...], points: int) -> str:
    """Say of which frontier a checkpoint is."""
    made = hashlib.sha256(
        repr((rows, points, problem.items, problem.options, sorted(problem.capacity.items()))).encode()
    )
    for table in (problem.value, problem.mask(), *(problem.usage[name] for name in sorted(problem.usage))):
        made.update(np.ascontiguousarray(table).tobytes())
    return made.hexdigest()


def _point_numbers(point: FrontierPoint, rows: tuple[str, ...]) -> list[float]:
    return [*(point.capacity[row] for row in rows), point.lower_bound, float(point.supported), *point.choice]


def _read_point(problem: ChoiceProblem, numbers: Sequence[float], rows: tuple[str, ...]) -> FrontierPoint:
    capacity = dict(zip(rows, numbers, strict=False))
    bound, supported, *columns = numbers[len(rows) :]
    choice = tuple(int(column) for column in columns)
    value, usage = price(problem, choice)
    return FrontierPoint(capacity, choice, value, usage, bound, relative_gap(value, bound), bool(supported))
