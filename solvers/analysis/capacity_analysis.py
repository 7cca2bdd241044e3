"""Analyses of one capacity: what more of it gains, in which range it matters, and the least of it for a given value."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from ..diagnosis import least_of
from ..model.errors import SolverError
from ..model.pricing import price
from ..model.problem import ChoiceProblem
from ..model.solution import ChoiceSolution
from ..solving import solve


def shadow_price(
    problem: ChoiceProblem, solution: ChoiceSolution, resource: str, step: float, **solve_options: Any
) -> float:
    """Solve again with a larger capacity, and return the gain: value(capacity) − value(capacity + step).

    Args:
        problem: The problem of `solution`.
        solution: A solution with a plan.
        resource: One with a capacity.
        step: Increase of the capacity, in the resource's unit.
        **solve_options: Passed to `solve`.

    Returns:
        Decrease of the value, in its own unit; at least 0.

    Raises:
        SolverError: There is no plan or no such capacity, or the step is not positive.
    """
    if solution.choice is None:
        raise SolverError("shadow_price: the solution has no plan. Solve a feasible problem first.")
    if resource not in problem.capacity:
        limited = ", ".join(problem.capacity) or "none"
        raise SolverError(f"shadow_price: {resource!r} has no capacity. Limited resources: {limited}.")
    if not 0 < step < math.inf:
        raise SolverError(f"shadow_price: step is {step}. Give a positive amount.")
    wider = replace(problem, capacity={**problem.capacity, resource: problem.capacity[resource] + step})
    # Both values are proven only up to a gap, but a larger capacity can never make the value worse.
    return max(0.0, solution.value - solve(wider, **solve_options).value)


def capacity_range(problem: ChoiceProblem, resource: str) -> tuple[float, float]:
    """Return the range (floor, ceiling) in which a capacity of `resource` matters.

    Floor: the least usage of any plan under masks, pins, ties and families. Ceiling: the usage of the best plan
    without any capacity (among equal values, of the plan that uses least).

    Args:
        problem: Tables and constraints; its capacities are ignored.
        resource: One with a usage table.

    Returns:
        Floor and ceiling, in the unit of the resource.

    Raises:
        SolverError: The resource has no usage table, or masks and links leave no plan.
    """
    free = replace(problem, capacity={}, tie_break=None)
    floor = least_of(free, resource)
    best = solve(replace(free, tie_break=resource), "auto")
    if best.choice is None:
        raise SolverError("capacity_range: pins and max_families leave no plan. Free one of them.")
    return floor, best.usage[resource]


def least_usage(problem: ChoiceProblem, resource: str, max_value: float, **solve_options: Any) -> ChoiceSolution:
    """Return the plan that uses least of one resource, with a value of at most `max_value`: the reverse problem.

    The other capacities, masks and links hold; the capacity of `resource` itself is ignored. Among plans of equal
    usage, the one with the least value is returned.

    Args:
        problem: Tables and constraints.
        resource: The resource to minimize.
        max_value: Largest value that the plan may have.
        **solve_options: Passed to `solve`.

    Returns:
        A solution whose `value` and `usage` are those of the plan in `problem`, while `lower_bound` and `gap` refer to
        the resource. If infeasible, `nearest_capacity["value"]` is the least value that a plan can have.

    Raises:
        SolverError: The resource has no usage table, or `max_value` is NaN.
    """
    turned = reverse(problem, resource, max_value)
    key = next(iter(turned.capacity))
    answer = solve(turned, **solve_options)
    offset = least_value(problem)
    nearest = {name: limit + offset if name == key else limit for name, limit in answer.nearest_capacity.items()}
    if answer.choice is None:
        return replace(answer, nearest_capacity=nearest)
    value, usage = price(problem, answer.choice)
    return replace(answer, value=value, usage=usage)


def reverse(problem: ChoiceProblem, resource: str, max_value: float, row: str = "value") -> ChoiceProblem:
    """Return the reverse problem: minimize the usage of a resource, with the value as a resource with a capacity.

    Usage must not be negative, so each item's value counts from its least one; `least_value` is the constant that is
    left out.

    Args:
        problem: Tables and constraints.
        resource: The resource to minimize; its own capacity is ignored.
        max_value: Largest value that a plan may have.
        row: Name of the value as a resource; the first of the capacities.

    Returns:
        A problem whose value is the usage of `resource`.

    Raises:
        SolverError: The resource has no usage table, or `max_value` is NaN.
    """
    if resource not in problem.usage:
        known = ", ".join(problem.usage) or "none"
        raise SolverError(f"resource: {resource!r} has no usage table. Resources: {known}.")
    if math.isnan(max_value):
        raise SolverError("least_usage: max_value is NaN. Give the largest value that a plan may have.")
    mask = problem.mask()
    least = np.where(mask, problem.value, np.inf).min(axis=1)
    above = np.where(mask, problem.value - least[:, None], 0.0)
    limits = {name: limit for name, limit in problem.capacity.items() if name != resource}
    # The new table must not hide a usage table of the same name.
    key = row if row not in problem.usage else f"{row} (objective)"
    return replace(
        problem,
        value=np.where(mask, problem.usage[resource], np.nan),
        usage={**problem.usage, key: above},
        capacity={key: max_value - math.fsum(least), **limits},
        allowed=mask,
        tie_break=key,
    )


def least_value(problem: ChoiceProblem) -> float:
    """Return the sum of each item's least value, which no plan can undercut, whatever its capacities.

    Args:
        problem: Tables, masks and pins.
    """
    return math.fsum(np.where(problem.mask(), problem.value, np.inf).min(axis=1))
