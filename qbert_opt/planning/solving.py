"""A planning task handed to a solver: how, what came back, and why nothing did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from solvers import ChoiceProblem, ChoiceSolution, SolverError, Status, solve

from ..costs.operations import Storage
from ..errors import UsageError
from ..spec.limits import shown_apart
from .program import LOSS, PlanningTask

if TYPE_CHECKING:
    from hwmodels import CostReport


LINKS = {"ties": "--tie stands against them", "max_families": "--max-formats {} stands against them"}


@dataclass(frozen=True, slots=True)
class SolverOptions:
    """How to solve: a file in `solvers/methods`, seconds, and where the search may stop."""

    solver: str = "auto"
    time_limit_s: float | None = None
    relative_gap: float = 1e-6


@dataclass(frozen=True, slots=True)
class Plan:
    """A solved program with what stays on chip; `tightened` are the scheduled limits that had to be enforced."""

    problem: ChoiceProblem
    solution: ChoiceSolution
    storage: Mapping[str, Storage]
    report: CostReport | None
    tightened: tuple[str, ...] = ()


def attempt(problem: ChoiceProblem, options: SolverOptions) -> ChoiceSolution:
    """Solve.

    Raises:
        UsageError: the solver does not take this problem.
    """
    try:
        return solve(problem, options.solver, time_limit_s=options.time_limit_s, relative_gap=options.relative_gap)
    except SolverError as error:
        raise UsageError(str(error)) from None


def why_infeasible(task: PlanningTask, problem: ChoiceProblem, solution: ChoiceSolution, options: SolverOptions) -> str:
    """Say in one line which limits stand against each other, and the nearest feasible value of each."""
    if solution.status is Status.TIME_LIMIT:
        return f"no plan found within {options.time_limit_s} s. Allow more time."
    constraints, parts = task.constraints, []
    for resource in solution.conflicts or tuple(solution.nearest_capacity):
        if resource == LOSS and constraints.max_loss is not None:
            above = solution.nearest_capacity.get(LOSS, 0.0) - problem.capacity[LOSS]
            stated, least = shown_apart(LOSS, constraints.max_loss, constraints.max_loss + above)
            parts.append(f"--max-loss = {stated}: nearest feasible {least}")
        if resource in LINKS:
            parts.append(LINKS[resource].format(constraints.max_formats))
        row, nearest = task.hard.get(resource), solution.nearest_capacity.get(resource)
        if row is None or nearest is None:
            continue  # the scratchpad and the user's pins are no limits that a number could be raised of
        unit = task.limits.inferences_per_s or 1.0 if row.measure == "bandwidth_bytes_per_s" else 1.0
        taken = row.stated - row.capacity * unit
        floor, ceiling = nearest * unit + taken, task.ceiling(problem, resource) * unit + taken
        stated, least, most = shown_apart(row.measure, row.stated, floor, ceiling)
        parts.append(
            f"{row.source} = {stated} is below the floor: nearest feasible {least}, ceiling {most}; "
            f"binding limit {row.measure}"
        )
    return "no plan keeps every limit: " + "; ".join(parts) + ". Raise it, or allow fewer --bits."
