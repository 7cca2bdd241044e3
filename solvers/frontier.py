"""The whole trade-off at once: least value for every capacity of one resource, or of two."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from . import branch, proof, states
from .diagnosis import least_of
from .engines import preferred
from .errors import SolverError
from .hull import Hull, hull_of
from .incumbent import polish
from .outcome import Limits, Outcome
from .presolve import drop_unfitting, presolve
from .pricing import capacity_with_rounding, price
from .problem import ChoiceProblem
from .program import IntArray, Program, columns_in, lift, program_of
from .solution import NOISE, PROVEN_GAP
from .solution import relative_gap as gap_of
from .solving import solve

MOST_GROUPS_TOGETHER = 500
"""Items (tied ones count as one) up to which the points of several rows help each other."""
MOST_KNOWN = 60  # plans of one relaxation that the next one starts from
MOST_HULL_POINTS = 5000
"""Supported plans that are reported; of more (thousands of items) every second, third, … is."""


@dataclass(frozen=True, slots=True, eq=False)
class FrontierPoint:
    """The best plan found for one set of capacities.

    Attributes:
        capacity: Of the resource, or both; the plan's own usage for a supported plan.
        choice: Option index of each item.
        value: Priced from the tables.
        usage: Of every resource.
        lower_bound: No plan within these capacities has a smaller value.
        gap: (value − lower_bound) / Σ |chosen values|; proven.
        supported: On the convex hull: best for some price per unit of the resource.
    """

    capacity: Mapping[str, float]
    choice: tuple[int, ...]
    value: float
    usage: Mapping[str, float]
    lower_bound: float
    gap: float
    supported: bool


@dataclass(frozen=True, slots=True, eq=False)
class Frontier:
    """Points by rising capacity (of the first resource, then the second); a larger capacity is never worse.

    Attributes:
        resources: One or two.
        points: Supported plans and asked capacities together.
        complete: False when the clock stopped it; pass it as `known` to go on.
        runtime_s: Wall-clock time of the last call.
    """

    resources: tuple[str, ...]
    points: tuple[FrontierPoint, ...]
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
    """Return the least value over the capacities of one resource or two, between floor and ceiling.

    The other capacities, masks and links of the problem hold throughout; the capacity of the resource itself is
    ignored. With one limited resource and no limit on families, all supported plans come from one sort. With several,
    capacities are taken from the loosest down: a plan that fits smaller capacities is the best one for them too, and
    each relaxation starts from the plans of those before. A limit on families, or thousands of items, leave one
    solve per point, by `solver`.

    Args:
        problem: The tables.
        resource: One name, or two for a grid.
        points: Evenly spaced capacities (two resources: the side of the grid is the root, rounded up).
        solver: For the points that need one.
        relative_gap: Passed to `solver`.
        time_limit_s: Stop after this many seconds, incomplete.
        known: An earlier frontier of the same problem; its points are not solved again.
        on_point: Called with each new point, say to store it.

    Raises:
        SolverError: A resource is unknown or repeated, there are fewer than two points, or no plan exists.
    """
    start = time.perf_counter()
    resources = (resource,) if isinstance(resource, str) else tuple(resource)
    _check(problem, resources, points)
    others = {name: limit for name, limit in problem.capacity.items() if name not in resources}
    # The first resource decides between equal values, unless the problem names another.
    base = replace(problem, capacity=others, tie_break=problem.tie_break or resources[0])
    limits = Limits(relative_gap, deadline=math.inf if time_limit_s is None else start + time_limit_s)
    budgets = _budgets(base, resources, points)
    done = {} if known is None else {_key(point.capacity): point for point in known.points}
    found, complete = [*done.values()], True
    for point in _points(base, resources, budgets, done, solver, limits):
        if point is None:
            complete = False
            break
        found.append(point)
        if on_point is not None:
            on_point(point)
    return Frontier(resources, _monotone(base, found), complete, time.perf_counter() - start)


Budget = Mapping[str, float]
Key = tuple[tuple[str, float], ...]


def _check(problem: ChoiceProblem, resources: tuple[str, ...], points: int) -> None:
    if not 1 <= len(set(resources)) == len(resources) <= 2:
        raise SolverError(f"pareto: resource is {resources}. Give one name or two different ones.")
    if points < 2:
        raise SolverError(f"pareto: points is {points}. Give 2 or more.")
    for name in resources:
        if name not in problem.usage:
            raise SolverError(f"pareto: {name!r} has no usage table. Resources: {', '.join(problem.usage)}.")


def _key(capacity: Budget) -> Key:
    return tuple(sorted(capacity.items()))


def _points(
    base: ChoiceProblem,
    resources: tuple[str, ...],
    budgets: list[Budget],
    done: Mapping[Key, FrontierPoint],
    solver: str,
    limits: Limits,
) -> Iterator[FrontierPoint | None]:
    """Yield points in the way that suits the problem; None when the time is over."""
    limited = any(limit != math.inf for limit in base.capacity.values())
    if base.max_families is not None or len(base.groups()) > MOST_GROUPS_TOGETHER:
        one_row = len(resources) == 1 and not limited and base.max_families is None
        if not one_row:
            return _solved_points(base, budgets, done, solver, limits)
    if len(resources) == 1 and not limited and base.tie_break == resources[0]:
        return _one_row_points(base, resources[0], budgets, done, solver, limits)
    return _several_row_points(base, budgets, done, solver, limits)


def _budgets(base: ChoiceProblem, resources: tuple[str, ...], points: int) -> list[Budget]:
    """Return the asked capacities: evenly from the floor to the usage of the best plan without that capacity."""
    axes = []
    side = points if len(resources) == 1 else math.ceil(math.sqrt(points))
    for name in resources:
        floor, best = least_of(base, name), solve(replace(base, tie_break=name))
        if best.choice is None or not math.isfinite(floor):
            raise SolverError(f"pareto: no plan keeps the other rows. In conflict: {', '.join(best.conflicts)}.")
        axes.append(np.linspace(floor, best.usage[name], side).tolist())
    return [dict(zip(resources, limits, strict=True)) for limits in product(*axes)]


def _point(
    problem: ChoiceProblem, capacity: Budget, choice: tuple[int, ...], bound: float, supported: bool
) -> FrontierPoint:
    value, usage = price(problem, choice)
    worth = math.fsum(np.abs(problem.value[range(len(choice)), choice]).tolist())
    lower = value if value - bound <= NOISE * worth else bound
    return FrontierPoint(dict(capacity), choice, value, usage, lower, gap_of(value, lower, worth), supported)


def _proven_point(
    base: ChoiceProblem, capacity: Budget, program: Program, outcome: Outcome, solver: str, limits: Limits
) -> FrontierPoint | None:
    """Return the point of an outcome, solved anew where rounding could hide a better plan; None without a plan."""
    if outcome.columns is not None and proof.trusted(program, outcome.columns):
        return _point(base, capacity, lift(base, program, outcome.columns), outcome.bound, supported=False)
    return _solved_point(base, capacity, solver, limits)


def _solved_points(
    base: ChoiceProblem, budgets: list[Budget], done: Mapping[Key, FrontierPoint], solver: str, limits: Limits
) -> Iterator[FrontierPoint | None]:
    """Yield a solved point per budget that has a plan."""
    for budget in budgets:
        if _key(budget) in done:
            continue
        if limits.expired():
            yield None
            return
        point = _solved_point(base, budget, solver, limits)
        if point is not None:
            yield point


def _solved_point(base: ChoiceProblem, budget: Budget, solver: str, limits: Limits) -> FrontierPoint | None:
    left = None if limits.deadline == math.inf else limits.remaining_s()
    # The resource that decides ties stays the first capacity.
    limited = replace(base, capacity={**budget, **base.capacity})
    answer = solve(limited, solver, relative_gap=limits.relative_gap, time_limit_s=left)
    if answer.choice is None:
        return None
    return _point(base, budget, answer.choice, answer.lower_bound, supported=False)


def _several_row_points(
    base: ChoiceProblem, budgets: list[Budget], done: Mapping[Key, FrontierPoint], solver: str, limits: Limits
) -> Iterator[FrontierPoint | None]:
    """Yield the best plan of each budget that has one, the loosest budget first."""
    whole = presolve(program_of(replace(base, capacity={**budgets[-1], **base.capacity})))
    if whole is None or not proof.moderate(whole):
        yield from _solved_points(base, budgets, done, solver, limits)
        return
    order = [name for name, limit in {**budgets[-1], **base.capacity}.items() if limit != math.inf]
    solved = list(done.values())
    known: tuple[IntArray, ...] = ()
    for budget in reversed(budgets):
        if _key(budget) in done:
            continue
        if limits.expired():
            yield None
            return
        same = next((point for point in solved if _still_best(point, budget)), None)
        if same is not None:
            point: FrontierPoint | None = replace(same, capacity=dict(budget))
        else:
            capacity = {**budget, **base.capacity}
            rhs = np.array([capacity_with_rounding(capacity[name]) for name in order])
            outcome, known = _closed(replace(whole, rhs=rhs), known, limits)
            if outcome.columns is None:
                if not outcome.finished:
                    yield None
                    return
                continue
            point = _proven_point(base, budget, whole, outcome, solver, limits)
        if point is not None:
            solved.append(point)
            yield point


def _still_best(point: FrontierPoint, budget: Budget) -> bool:
    """Say whether a point of capacities no smaller holds a plan that fits this budget: then no plan is better."""
    looser = all(point.capacity.get(name, -math.inf) >= limit for name, limit in budget.items())
    return looser and all(point.usage[name] <= limit for name, limit in budget.items())


def _closed(whole: Program, known: tuple[IntArray, ...], limits: Limits) -> tuple[Outcome, tuple[IntArray, ...]]:
    """Return the best plan of a program and the plans of its relaxation, started from those of earlier ones."""
    part = drop_unfitting(whole)
    if part is None:
        return Outcome(None, math.inf, finished=True), known
    there = columns_in(whole, part, np.arange(len(part.group)))
    here = np.full(len(whole.group), -1)
    here[there] = np.arange(len(there))
    inside = [here[plan] for plan in known if (here[plan] >= 0).all()]
    outcome, met = branch.best_plan_from(part, limits, preferred(), inside)
    columns = None if outcome.columns is None else there[outcome.columns]
    return replace(outcome, columns=columns), (*(there[plan] for plan in met[:MOST_KNOWN]),)


def _one_row_points(
    base: ChoiceProblem,
    name: str,
    budgets: list[Budget],
    done: Mapping[Key, FrontierPoint],
    solver: str,
    limits: Limits,
) -> Iterator[FrontierPoint | None]:
    """Yield every supported plan, then the best plan of each budget, each started from the one before."""
    program = presolve(program_of(replace(base, capacity={name: budgets[-1][name]})))
    if program is None or not proof.moderate(program):
        yield from _solved_points(base, budgets, done, solver, limits)
        return
    hull = hull_of(program)
    known = set(done)
    for point in _hull_points(base, name, program, hull, done):
        known.add(_key(point.capacity))
        yield point
    plan: IntArray | None = None
    for budget in budgets:
        if _key(budget) in known:
            continue
        if limits.expired():
            yield None
            return
        limited = replace(program, rhs=np.array([capacity_with_rounding(budget[name])]))
        plan, bound = _next(limited, hull, plan, limits)
        proven = _proven_point(base, budget, program, Outcome(plan, bound, finished=True), solver, limits)
        if proven is not None:
            yield proven


def _hull_points(
    base: ChoiceProblem, name: str, program: Program, hull: Hull, done: Mapping[Key, FrontierPoint]
) -> Iterator[FrontierPoint]:
    stride = math.ceil(len(hull.usage) / MOST_HULL_POINTS)
    for index in range(0, len(hull.usage), stride):
        plan = hull.plan(program, index)
        choice = lift(base, program, plan)
        value, usage = price(base, choice)
        if _key({name: usage[name]}) not in done and proof.trusted(program, plan):
            yield _point(base, {name: usage[name]}, choice, value, supported=True)


def _next(limited: Program, hull: Hull, before: IntArray | None, limits: Limits) -> tuple[IntArray, float]:
    """Return the best plan for the program's capacity and its bound, given the plan of a smaller one."""
    relaxation = hull.relaxation(limited, float(limited.rhs[0]))
    starts = [polish(limited, relaxation, plan) for plan in (relaxation.plans[0], before) if plan is not None]
    plans = [plan for plan in starts if plan is not None]
    start = min(plans, key=lambda plan: float(limited.cost[plan].sum()))
    outcome = states.close(limited, relaxation, start, float(limited.cost[start].sum()), limits)
    return (start if outcome.columns is None else outcome.columns), outcome.bound


def _monotone(base: ChoiceProblem, points: list[FrontierPoint]) -> tuple[FrontierPoint, ...]:
    """Sort; let no point be worse than one of smaller capacities, nor its bound above one's of smaller ones."""
    ordered = sorted(points, key=lambda p: (*p.capacity.values(), not p.supported))
    result: list[FrontierPoint] = []
    leader: dict[tuple[float, ...], FrontierPoint] = {}  # best so far per capacity of the second resource
    for point in ordered:
        _, *second = point.capacity.values()
        inside = [best for limit, best in leader.items() if all(a <= b for a, b in zip(limit, second, strict=True))]
        best = min(inside, key=lambda p: p.value, default=point)
        if best.value < point.value:
            bound = min(point.lower_bound, best.value)
            point = _point(base, point.capacity, best.choice, bound, supported=False)
        leader[tuple(second)] = point
        result.append(point)
    return tuple(result)
