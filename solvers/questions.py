"""Questions about a capacity: what more of it buys, and between which limits it matters."""

import math
from dataclasses import replace
from typing import Any

from .diagnosis import least_of
from .errors import SolverError
from .problem import ChoiceProblem
from .solution import ChoiceSolution
from .solving import solve


def shadow_price(
    problem: ChoiceProblem, solution: ChoiceSolution, resource: str, step: float, **solve_options: Any
) -> float:
    """Return value(capacity) − value(capacity + step), solved again: what one more `step` buys.

    Args:
        problem: The problem that `solution` answers.
        solution: An answer with a plan.
        resource: One with a finite capacity.
        step: How much more, in the resource's unit.
        **solve_options: Passed to `solve`.

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
    # Both values are proven to a gap only: a looser capacity never costs more.
    return max(0.0, solution.value - solve(wider, **solve_options).value)


def capacity_range(problem: ChoiceProblem, resource: str) -> tuple[float, float]:
    """Return floor and ceiling between which a capacity of `resource` matters.

    Floor: the least usage of any plan under masks, pins, ties and families. Ceiling: the usage of the
    best-valued plan without any capacity (of equal values, the one that uses least).

    Raises:
        SolverError: The resource has no usage table, or masks and links leave no plan.
    """
    free = replace(problem, capacity={}, tie_break=None)
    floor = least_of(free, resource)
    best = solve(replace(free, tie_break=resource), "auto")
    if best.choice is None:
        raise SolverError("capacity_range: pins and max_families leave no plan. Free one of them.")
    return floor, best.usage[resource]
