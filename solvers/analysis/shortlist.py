"""Several diverse good plans, to be measured and compared."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from ..model.errors import SolverError
from ..model.problem import ChoiceProblem
from ..model.solution import ChoiceSolution, Status
from ..solving import solve


def top_k(
    problem: ChoiceProblem, n: int, within: float = math.inf, *, distance: int = 1, **solve_options: Any
) -> tuple[ChoiceSolution, ...]:
    """Return up to `n` diverse plans: each is the best plan that differs enough from all earlier ones.

    The number of items that agree with an earlier plan is one more additive resource with a capacity, so every solver
    that takes several capacities can do this, with its proof.

    Args:
        problem: Items, options and constraints.
        n: Largest number of plans.
        within: Largest relative distance from the best value; plans beyond it are left out.
        distance: Least number of items in which two plans differ.
        **solve_options: Passed to `solve` (the solver must take several capacities).

    Returns:
        Plans by increasing value; fewer than `n` if there are no more. If the search for the next one ended before it
        found a plan or a proof that there is none, the last entry has status `NO_PLAN_FOUND` and no choice.

    Raises:
        SolverError: `n`, `within` or `distance` is out of range.
    """
    if n < 1:
        raise SolverError(f"top_k: n is {n}. Give 1 or more.")
    if not within >= 0:
        raise SolverError(f"top_k: within is {within}. Give 0 or more, such as 0.05 for 5 percent.")
    if not 1 <= distance <= len(problem.items):
        raise SolverError(f"top_k: distance is {distance}. Give 1 to {len(problem.items)}, the number of items.")
    plans: list[ChoiceSolution] = []
    remaining = replace(problem, tie_break=problem.tie_resource())
    while len(plans) < n:
        answer = _without_agreement(problem, solve(remaining, **solve_options))
        if answer.choice is None:
            plans += [answer] if answer.status is Status.NO_PLAN_FOUND else []
            break
        if plans and answer.value > plans[0].value + within * abs(plans[0].value):
            break
        plans.append(answer)
        remaining = differing(remaining, answer.choice, distance, len(plans))
    return tuple(plans)


def differing(problem: ChoiceProblem, choice: tuple[int, ...], distance: int, number: int) -> ChoiceProblem:
    """Return the same problem for plans that differ from an earlier one.

    Args:
        problem: Items, options and constraints.
        choice: Option index of each item in the earlier plan.
        distance: Least number of items in which a plan must differ from it.
        number: Of the earlier plan; names the new resource, items that agree.
    """
    agrees = np.zeros(problem.value.shape)
    agrees[range(len(choice)), choice] = 1.0
    name = f"agrees with plan {number}"
    return replace(
        problem,
        usage={**problem.usage, name: agrees},
        capacity={**problem.capacity, name: float(len(choice) - distance)},
    )


def _without_agreement(problem: ChoiceProblem, answer: ChoiceSolution) -> ChoiceSolution:
    """Remove the resources that count agreement with earlier plans."""
    return replace(
        answer,
        usage={name: amount for name, amount in answer.usage.items() if name in problem.usage},
        binding=tuple(name for name in answer.binding if name in problem.usage),
    )
