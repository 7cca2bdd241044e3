"""The Pareto frontier: the least value for every capacity of one or two resources."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np

from ..diagnosis import least_of
from ..model.errors import SolverError
from ..model.problem import ChoiceProblem
from ..model.solution import PROVEN_GAP
from ..search.outcome import SearchLimits
from ..solving import solve
from .frontier_points import Budget, FrontierPoint, key_of, point_of, points_of


@dataclass(frozen=True, slots=True, eq=False)
class Frontier:
    """A Pareto frontier; a larger capacity never has a larger value.

    Attributes:
        resources: One or two names.
        points: Plans on the convex hull and at evenly spaced capacities, by capacity of the first resource, then of
            the second.
        complete: False if the time limit stopped the computation; pass the frontier as `known` to continue.
        runtime_s: Wall-clock time of the last call.
    """

    resources: tuple[str, ...]
    points: tuple[FrontierPoint, ...] = field(repr=False)
    complete: bool
    runtime_s: float


def pareto(
    problem: ChoiceProblem,
    resource: str | tuple[str, str],
    *,
    points: int = 200,
    solver: str = "auto",
    relative_gap: float = PROVEN_GAP,
    time_limit_s: float | None = None,
    known: Frontier | None = None,
    on_point: Callable[[FrontierPoint], None] | None = None,
) -> Frontier:
    """Compute the Pareto frontier of value against one or two resources.

    The other capacities, masks and links of the problem hold throughout; the capacity of the resource itself is
    ignored. With one limited resource and no limit on families, all plans on the convex hull come from one sort. With
    several, capacities are taken in decreasing order: a plan that also fits smaller capacities is optimal for them
    too, and each relaxation starts from the plans of earlier ones. With a limit on families, or thousands of items,
    `solver` solves every point separately.

    Args:
        problem: Tables and constraints.
        resource: One name, or two for a grid.
        points: Number of evenly spaced capacities, from the least usage to that of the best plan (with two resources,
            the grid has the square root of it, rounded up, per side).
        solver: For points that need a solve of their own.
        relative_gap: Passed to `solver`.
        time_limit_s: Stop after this many seconds, with an incomplete frontier.
        known: An earlier frontier of the same problem; its points are not solved again.
        on_point: Called with each new point, for example to store it.

    Returns:
        Points by increasing capacity, each with a proven bound.

    Raises:
        SolverError: A resource is unknown or repeated, there are fewer than two points, or no plan exists.
    """
    start = time.perf_counter()
    resources = (resource,) if isinstance(resource, str) else tuple(resource)
    _check(problem, resources, points)
    others = {name: limit for name, limit in problem.capacity.items() if name not in resources}
    # The first resource breaks ties, unless the problem names another.
    base = replace(problem, capacity=others, tie_break=problem.tie_break or resources[0])
    limits = SearchLimits(relative_gap, deadline=math.inf if time_limit_s is None else start + time_limit_s)
    budgets = _budgets(base, resources, points)
    done = {} if known is None else {key_of(point.capacity): point for point in known.points}
    collected, complete = [*done.values()], True
    for point in points_of(base, resources, budgets, done, solver, limits):
        if point is None:
            complete = False
            break
        collected.append(point)
        if on_point is not None:
            on_point(point)
    return Frontier(resources, _monotone(base, collected), complete, time.perf_counter() - start)


def _check(problem: ChoiceProblem, resources: tuple[str, ...], points: int) -> None:
    if not 1 <= len(set(resources)) == len(resources) <= 2:
        raise SolverError(f"pareto: resource is {resources}. Give one name or two different ones.")
    if points < 2:
        raise SolverError(f"pareto: points is {points}. Give 2 or more.")
    for name in resources:
        if name not in problem.usage:
            raise SolverError(f"pareto: {name!r} has no usage table. Resources: {', '.join(problem.usage)}.")


def _budgets(base: ChoiceProblem, resources: tuple[str, ...], points: int) -> list[Budget]:
    """Return evenly spaced capacities, from the floor to the usage of the best plan without that capacity."""
    axes = []
    side = points if len(resources) == 1 else math.ceil(math.sqrt(points))
    for name in resources:
        floor, best = least_of(base, name), solve(replace(base, tie_break=name))
        if best.choice is None or not math.isfinite(floor):
            raise SolverError(f"pareto: no plan keeps the other rows. In conflict: {', '.join(best.conflicts)}.")
        axes.append(np.linspace(floor, best.usage[name], side).tolist())
    return [dict(zip(resources, limits, strict=True)) for limits in product(*axes)]


def _monotone(base: ChoiceProblem, points: list[FrontierPoint]) -> tuple[FrontierPoint, ...]:
    """Sort the points, and replace any that is worse than a point of smaller capacities."""
    ordered = sorted(points, key=lambda p: (*p.capacity.values(), not p.supported))
    result: list[FrontierPoint] = []
    leader: dict[tuple[float, ...], FrontierPoint] = {}  # best so far per capacity of the second resource
    for point in ordered:
        _, *second = point.capacity.values()
        inside = [best for limit, best in leader.items() if all(a <= b for a, b in zip(limit, second, strict=True))]
        best = min(inside, key=lambda p: p.value, default=point)
        if best.value < point.value:
            bound = min(point.lower_bound, best.value)
            point = point_of(base, point.capacity, best.choice, bound, supported=False)
        leader[tuple(second)] = point
        result.append(point)
    return tuple(result)
