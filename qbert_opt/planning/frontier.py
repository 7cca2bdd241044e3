"""The Pareto frontier of a planning task: the least predicted loss for every budget of one or two resources."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import Field

from solvers import ChoiceProblem, Frontier, FrontierPoint, SolverError, pareto, uniform_plans

from ..errors import InfeasibleError, UsageError
from ..runtime import plain_text
from ..runtime.frozen import Frozen
from ..runtime.progress import Progress, silent
from ..runtime.resumable import Jobs
from ..spec.profiles import ModelProfile
from ..spec.quantities import shown
from ..spec.score_parts import Provenance
from .assembly import Judgement
from .constraints import RESOURCES, resources_of
from .cross_fit import fixed_std_error, judged, loss_of, others_mean
from .frontier_checkpoint import fingerprint, point_numbers, read_point
from .program import PlanningTask
from .stand_ins import Sweep
from .traffic_limit import TRAFFIC, placed_points, with_room

SCHEMA = "qbert-opt/frontier@2"


class TradeOffPoint(Frozen):
    """One plan on the frontier.

    Attributes:
        capacity: budget of each resource for the searched matrices, in bytes, seconds or joules.
        usage: what the plan's searched matrices use of every resource.
        predicted_loss: cross-fitted, see `Allocation.predicted_loss`; the sum of scores if the scores have no folds.
        predicted_std_error: of `predicted_loss`; None if the scores have no folds.
        sum_of_scores: the minimized sum; no plan within `capacity` has less than `lower_bound`.
        supported: whether the plan lies on the convex hull of the frontier.
        choices: name of each matrix' choice, in the order of the profile's matrices.
        tables: name of each scored embedding table's choice, in the order of the scores.
    """

    capacity: dict[str, float]
    usage: dict[str, float]
    predicted_loss: float
    predicted_std_error: float | None
    sum_of_scores: float
    lower_bound: float
    gap: float
    supported: bool
    choices: tuple[str, ...]
    tables: tuple[str, ...] = ()


class UniformPoint(Frozen):
    """A plan that gives every matrix one choice, for comparison: no text chose it, so its sum of scores is unbiased.

    A choice that some matrix cannot take makes no such plan.
    """

    choice: str
    usage: dict[str, float]
    predicted_loss: float
    predicted_std_error: float | None


class OwnLimit(Frozen):
    """A limit on a resource that the frontier spans. The frontier continues beyond it, with plans that exceed it.

    Attributes:
        resource: the limited resource, by its name in `usage`.
        capacity: what the limit leaves for the searched matrices.
        source: where the limit comes from, for example `car-soc: limits.weights`.
    """

    resource: str
    capacity: float
    source: str


class TradeOff(Frozen):
    """A Pareto frontier, with the model, text and device that it belongs to.

    Attributes:
        resources: names in `RESOURCES`; one or two.
        fixed: usage of everything that is not searched, by resource.
        own_limits: limits on the resources that the frontier spans; it continues beyond them.
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

    def __str__(self) -> str:
        """Return the frontier in one line."""
        losses = [point.predicted_loss for point in self.points]
        where = "" if self.device is None else f" on {self.device}"
        span = f", predicted loss {min(losses):.3g} to {max(losses):.3g}" if losses else ""
        return f"{self.profile.name}{where}: {len(losses)} plans over {' and '.join(self.resources)}{span}"

    def __repr__(self) -> str:
        """Return one line."""
        return (
            f"TradeOff({self.profile.name!r}, resources={self.resources}, device={self.device!r}, "
            f"points={len(self.points)}, complete={self.complete})"
        )


def trade_off(
    task: PlanningTask,
    resources: tuple[str, ...],
    *,
    points: int = 200,
    checkpoint: str | Path | None = None,
    progress: Progress = silent,
) -> TradeOff:
    """Compute the Pareto frontier of predicted loss against one or two resources, under the task's other limits.

    Latency and energy stand for their separable upper bounds; the scheduled values are never larger.

    Args:
        task: scores, limits and hardware; a limit on a resource of the frontier itself is ignored.
        resources: one or two names in `RESOURCES`.
        points: number of evenly spaced budgets between the least and the largest use; plans on the convex hull are
            added to them.
        checkpoint: file for finished points, from which an interrupted run resumes.
        progress: called with budgets done, number of budgets, and the current step.

    Raises:
        InfeasibleError: no plan meets the limits on other resources.
        UsageError: an unknown or repeated resource, one that needs a device, or fewer than two points.
    """
    if len(set(resources)) != len(resources) or not 1 <= len(resources) <= 2:
        raise UsageError(f"`resources` {', '.join(resources)}: give one, or two different ones.")
    if points < 2:
        raise UsageError(f"`points` {points}: give 2 or more.")
    for name in resources:
        if name not in (legal := resources_of(task.profile)):
            raise UsageError(f"`resources` {name}: legal: {', '.join(legal)}.")
        if name not in ("bytes", "total-bytes") and task.device is None:
            raise UsageError(f"`resources` {name}: needs `device`, which determines its cost.")
    rows = tuple(RESOURCES[name] for name in resources)
    capacity = {name: limit for name, limit in task.capacity().items() if name not in rows}
    problem = streamed = task.problem(capacity)
    both = task.problem(capacity, joint=True) if task.has_scratchpad and TRAFFIC in capacity else None
    if both is not None:
        problem = with_room(streamed, both)
    jobs = Jobs(checkpoint, fingerprint(problem, rows, points))
    known = Frontier(rows, tuple(read_point(problem, row, rows) for row in jobs.finished.values()), False, 0.0)
    num_budgets = points if len(rows) == 1 else math.ceil(math.sqrt(points)) ** 2
    done = sum(not point.supported for point in known.points)

    def keep(point: FrontierPoint) -> None:
        nonlocal done
        done += not point.supported
        progress(min(done, num_budgets), num_budgets, "budgets")
        if checkpoint is not None:
            jobs.add(repr(sorted(point.capacity.items())), point_numbers(point, rows))

    resource = rows[0] if len(rows) == 1 else (rows[0], rows[1])
    try:
        frontier = pareto(problem, resource, points=points, known=known, on_point=keep)
    except SolverError as error:  # the resources are known, so no plan meets the other limits
        jobs.remove()
        others = "; ".join(f"{row.source} = {shown(row.measure, row.stated)}" for row in task.hard.values())
        raise InfeasibleError(f"no plan meets the limits on other resources: {others or error}. Raise them.") from None
    jobs.remove()
    found = frontier.points if both is None else placed_points(frontier.points, both)
    return TradeOff(
        resources=resources,
        loss_unit=task.scores.loss_unit,
        device=None if task.device is None else task.device.id,
        complete=frontier.complete,
        runtime_s=frontier.runtime_s,
        fixed=task.tables.fixed,
        points=tuple(
            _point(task, point, judgement)
            for point, judgement in zip(found, _judgements(task, problem, rows, found), strict=True)
        ),
        uniform=tuple(
            UniformPoint(
                choice=plan.name.removeprefix("uniform "),
                usage=dict(plan.usage),
                predicted_loss=plan.value,
                predicted_std_error=fixed_std_error(task, plan.value, np.array(plan.choice)),
            )
            for plan in uniform_plans(_best_tables(task, streamed))
            if not plan.broken and len(set(plan.choice[: task.num_matrices])) == 1
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
    """Fix the scored tables at their best choice, so that uniform plans differ only in their matrices."""
    value = np.where(problem.mask(), problem.value, np.inf)[task.num_matrices :]
    names = (item.module for item in task.searched_tables)
    return replace(problem, pins={name: problem.options[row.argmin()] for name, row in zip(names, value, strict=True)})


def to_csv(frontier: TradeOff) -> str:
    """Return the points as CSV.

    Args:
        frontier: the points.

    Returns:
        A header, then one line per point: budgets, usage, losses, bound, gap, and whether it is on the convex hull.
    """
    names = sorted({name for point in frontier.points for name in point.usage})
    budgets = [RESOURCES[name] for name in frontier.resources]
    losses = ["predicted_loss", "predicted_std_error", "sum_of_scores", "lower_bound", "gap", "supported"]
    rows = [
        [
            *(point.capacity.get(name, "") for name in budgets),
            *(point.usage[name] for name in names),
            *("" if (figure := getattr(point, name)) is None else figure for name in losses),
        ]
        for point in frontier.points
    ]
    return plain_text.to_csv([*(f"budget_{name}" for name in budgets), *names, *losses], rows)


def _judgements(
    task: PlanningTask, problem: ChoiceProblem, rows: tuple[str, ...], points: Sequence[FrontierPoint]
) -> list[Judgement | None]:
    """Cross-fit every point; None if the scores have no folds, or if a fold has no plan within a point's budget."""
    folds = task.folds
    if not len(folds) or problem.max_families is not None:
        return [None] * len(points)
    limited = {name: limit for name, limit in problem.capacity.items() if limit < math.inf}
    names = tuple(dict.fromkeys((*rows, *limited)))
    held_out: list[list[float] | None] = [[] for _ in points]
    for index, fold in enumerate(folds):
        sweep = Sweep(problem, np.where(task.legal, others_mean(folds, index), np.inf), names)
        for number, point in enumerate(points):
            chosen = sweep.choose({**limited, **point.capacity})
            losses = held_out[number]
            if chosen is None:
                held_out[number] = None
            elif losses is not None:
                losses.append(loss_of(fold, chosen))
    return [None if losses is None else judged(task, losses) for losses in held_out]


def _point(task: PlanningTask, point: FrontierPoint, judgement: Judgement | None) -> TradeOffPoint:
    names = tuple(task.choices[j].name for j in point.choice)
    return TradeOffPoint(
        capacity=dict(point.capacity),
        usage=dict(point.usage),
        predicted_loss=point.value if judgement is None else judgement.loss,
        predicted_std_error=None if judgement is None else judgement.std_error,
        sum_of_scores=point.value,
        lower_bound=point.lower_bound,
        gap=point.gap,
        supported=point.supported,
        choices=names[: task.num_matrices],
        tables=names[task.num_matrices :],
    )
