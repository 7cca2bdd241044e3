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


LINKS = {"ties": "`ties` conflicts with them", "max_families": "`max_formats` {} conflicts with them"}


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
        UsageError: the solver does not take this problem, or the time limit ended the search before any plan.
    """
    try:
        answer = solve(problem, options.solver, time_limit_s=options.time_limit_s, relative_gap=options.relative_gap)
    except SolverError as error:
        raise UsageError(str(error)) from None
    if answer.status is Status.NO_PLAN_FOUND:
        limit = "the search" if options.time_limit_s is None else f"time_limit_s = {options.time_limit_s:g}: the search"
        raise UsageError(f"{limit} ended before any plan was found, and there may be one. Allow more time.")
    return answer


def why_infeasible(task: PlanningTask, problem: ChoiceProblem, solution: ChoiceSolution) -> str:
    """Say in one line which limits stand against each other, and the nearest feasible value of each."""
    constraints, parts = task.constraints, []
    for resource in solution.conflicts or tuple(solution.nearest_capacity):
        if resource == LOSS and constraints.max_loss is not None:
            above = solution.nearest_capacity.get(LOSS, 0.0) - problem.capacity[LOSS]
            stated, least = shown_apart(LOSS, constraints.max_loss, constraints.max_loss + above)
            parts.append(f"`max_loss` = {stated}: nearest feasible {least}")
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
