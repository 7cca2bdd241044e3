"""The points of a frontier, computed by the method that suits the problem."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ..model.pricing import capacity_with_rounding, price
from ..model.problem import ChoiceProblem
from ..model.program import IntArray, Program, columns_in, lift, program_of
from ..model.solution import NOISE, relative_gap
from ..search import exact_search, partial_plans, proof
from ..search.default_engine import preferred
from ..search.hull import Hull, hull_of
from ..search.incumbent import polish
from ..search.outcome import Outcome, SearchLimits
from ..search.presolve import drop_unfitting, presolve
from ..solving import solve

MOST_GROUPS_TOGETHER = 500
"""Items (tied ones count as one) up to which points with several rows are solved together, each from earlier ones."""
MOST_KNOWN = 60  # plans of one relaxation that the next one starts from
MOST_HULL_POINTS = 5000
"""Largest number of reported plans on the convex hull; if there are more, only every second, third, … is reported."""


@dataclass(frozen=True, slots=True, eq=False)
class FrontierPoint:
    """The best plan for one set of capacities.

    Attributes:
        capacity: Capacity of each of the frontier's resources; the plan's own usage if it is supported.
        choice: Option index of each item.
        value: Priced from the tables.
        usage: Usage of every resource.
        lower_bound: Proven: no plan within these capacities has a smaller value.
        gap: (value − lower_bound) / Σ |chosen values|.
        supported: Whether the plan lies on the convex hull: it is optimal for some price per unit of the resource.
    """

    capacity: Mapping[str, float]
    choice: tuple[int, ...] = field(repr=False)
    value: float
    usage: Mapping[str, float] = field(repr=False)
    lower_bound: float
    gap: float
    supported: bool


Budget = Mapping[str, float]
Key = tuple[tuple[str, float], ...]


def key_of(capacity: Budget) -> Key:
    """Return a hashable key of one set of capacities.

    Args:
        capacity: Capacity of each resource.
    """
    return tuple(sorted(capacity.items()))


def points_of(
    base: ChoiceProblem,
    resources: tuple[str, ...],
    budgets: list[Budget],
    done: Mapping[Key, FrontierPoint],
    solver: str,
    limits: SearchLimits,
) -> Iterator[FrontierPoint | None]:
    """Yield the points of a frontier by the method that suits the problem; None when the time is over.

    Args:
        base: The problem without capacities of the frontier's own resources.
        resources: One or two names.
        budgets: Capacities to solve for.
        done: Points that are already known.
        solver: For points that need a solve of their own.
        limits: Time and gap.
    """
    limited = any(limit != math.inf for limit in base.capacity.values())
    if base.max_families is not None or len(base.groups()) > MOST_GROUPS_TOGETHER:
        one_row = len(resources) == 1 and not limited and base.max_families is None
        if not one_row:
            return _solved_points(base, budgets, done, solver, limits)
    if len(resources) == 1 and not limited and base.tie_break == resources[0]:
        return _one_row_points(base, resources[0], budgets, done, solver, limits)
    return _several_row_points(base, budgets, done, solver, limits)


def point_of(
    problem: ChoiceProblem, capacity: Budget, choice: tuple[int, ...], bound: float, supported: bool
) -> FrontierPoint:
    """Return the frontier point of a plan, priced from the tables.

    Args:
        problem: The tables.
        capacity: Capacities of the point.
        choice: Option index of each item.
        bound: Proven lower bound of the value within these capacities.
        supported: Whether the plan lies on the convex hull.
    """
    value, usage = price(problem, choice)
    worth = math.fsum(np.abs(problem.value[range(len(choice)), choice]).tolist())
    lower = value if value - bound <= NOISE * worth else bound
    return FrontierPoint(dict(capacity), choice, value, usage, lower, relative_gap(value, lower, worth), supported)


def _proven_point(
    base: ChoiceProblem, capacity: Budget, program: Program, outcome: Outcome, solver: str, limits: SearchLimits
) -> FrontierPoint | None:
    """Return the point of an outcome, solved again if rounding could hide a better plan; None without a plan."""
    if outcome.columns is not None and proof.trusted(program, outcome.columns):
        return point_of(base, capacity, lift(base, program, outcome.columns), outcome.bound, supported=False)
    return _solved_point(base, capacity, solver, limits)


def _solved_points(
    base: ChoiceProblem, budgets: list[Budget], done: Mapping[Key, FrontierPoint], solver: str, limits: SearchLimits
) -> Iterator[FrontierPoint | None]:
    """Yield a solved point per budget that has a plan."""
    for budget in budgets:
        if key_of(budget) in done:
            continue
        if limits.expired():
            yield None
            return
        point = _solved_point(base, budget, solver, limits)
        if point is not None:
            yield point


def _solved_point(base: ChoiceProblem, budget: Budget, solver: str, limits: SearchLimits) -> FrontierPoint | None:
    left = None if limits.deadline == math.inf else limits.remaining_s()
    # The tie-breaking resource stays the first capacity.
    limited = replace(base, capacity={**budget, **base.capacity})
    answer = solve(limited, solver, relative_gap=limits.relative_gap, time_limit_s=left)
    if answer.choice is None:
        return None
    return point_of(base, budget, answer.choice, answer.lower_bound, supported=False)


def _several_row_points(
    base: ChoiceProblem, budgets: list[Budget], done: Mapping[Key, FrontierPoint], solver: str, limits: SearchLimits
) -> Iterator[FrontierPoint | None]:
    """Yield the best plan of each feasible budget, the largest budget first."""
    whole = presolve(program_of(replace(base, capacity={**budgets[-1], **base.capacity})))
    if whole is None or not proof.moderate(whole):
        yield from _solved_points(base, budgets, done, solver, limits)
        return
    order = [name for name, limit in {**budgets[-1], **base.capacity}.items() if limit != math.inf]
    solved = list(done.values())
    known: tuple[IntArray, ...] = ()
    for budget in reversed(budgets):
        if key_of(budget) in done:
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
    """Whether the plan of a point with no smaller capacities fits this budget, and so is optimal for it too."""
    looser = all(point.capacity.get(name, -math.inf) >= limit for name, limit in budget.items())
    return looser and all(point.usage[name] <= limit for name, limit in budget.items())


def _closed(whole: Program, known: tuple[IntArray, ...], limits: SearchLimits) -> tuple[Outcome, tuple[IntArray, ...]]:
    """Return the best plan of a program and the plans of its relaxation, started from those of earlier ones."""
    part = drop_unfitting(whole)
    if part is None:
        return Outcome(None, math.inf, finished=True), known
    there = columns_in(whole, part, np.arange(len(part.group)))
    here = np.full(len(whole.group), -1)
    here[there] = np.arange(len(there))
    inside = [here[plan] for plan in known if (here[plan] >= 0).all()]
    outcome, met = exact_search.best_plan_from(part, limits, preferred(), inside)
    columns = None if outcome.columns is None else there[outcome.columns]
    return replace(outcome, columns=columns), (*(there[plan] for plan in met[:MOST_KNOWN]),)


def _one_row_points(
    base: ChoiceProblem,
    name: str,
    budgets: list[Budget],
    done: Mapping[Key, FrontierPoint],
    solver: str,
    limits: SearchLimits,
) -> Iterator[FrontierPoint | None]:
    """Yield every supported plan, then the best plan of each budget, each started from the one before."""
    program = presolve(program_of(replace(base, capacity={name: budgets[-1][name]})))
    if program is None or not proof.moderate(program):
        yield from _solved_points(base, budgets, done, solver, limits)
        return
    hull = hull_of(program)
    known = set(done)
    for point in _hull_points(base, name, program, hull, done):
        known.add(key_of(point.capacity))
        yield point
    plan: IntArray | None = None
    for budget in budgets:
        if key_of(budget) in known:
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
        if key_of({name: usage[name]}) not in done and proof.trusted(program, plan):
            yield point_of(base, {name: usage[name]}, choice, value, supported=True)


def _next(limited: Program, hull: Hull, before: IntArray | None, limits: SearchLimits) -> tuple[IntArray, float]:
    """Return the best plan for the program's capacity and its bound, given the plan of a smaller one."""
    relaxation = hull.relaxation(limited, float(limited.rhs[0]))
    starts = [polish(limited, relaxation, plan) for plan in (relaxation.plans[0], before) if plan is not None]
    plans = [plan for plan in starts if plan is not None]
    start = min(plans, key=lambda plan: float(limited.cost[plan].sum()))
    outcome = partial_plans.close(limited, relaxation, start, float(limited.cost[start].sum()), limits)
    return (start if outcome.columns is None else outcome.columns), outcome.bound
