"""Run a solver on a planning task's program: its options, the solved plan, and why no plan is feasible."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solvers import ChoiceProblem, ChoiceSolution, SolverError, Status, solve

from ..costs.operations import Storage
from ..errors import NoPlanFoundError, UsageError
from ..spec.limits import shown_apart
from .program import PlanningTask

if TYPE_CHECKING:
    from hwmodels import CostReport

    from .assembly import Judgement


LINKS = {"ties": "`ties` conflicts with them", "max_families": "`max_formats` {} conflicts with them"}


@dataclass(frozen=True, slots=True)
class SolverOptions:
    """How to solve.

    Attributes:
        solver: name of a file in `solvers/methods`.
        time_limit_s: seconds; None is no limit.
        relative_gap: proven relative distance from the optimum at which the search may stop.
    """

    solver: str = "auto"
    time_limit_s: float | None = None
    relative_gap: float = 1e-6


@dataclass(frozen=True, slots=True)
class Plan:
    """A solved program.

    Attributes:
        problem: the program.
        solution: its solution.
        storage: choice and residency of each item, by module.
        report: the simulator's report; None without a device.
        tightened: limits on latency or energy that were enforced by lowering their caps.
        judged: its cross-fitted loss, where it is known already.
    """

    problem: ChoiceProblem
    solution: ChoiceSolution
    storage: Mapping[str, Storage]
    report: CostReport | None
    tightened: tuple[str, ...] = ()
    judged: Judgement | None = None


def attempt(problem: ChoiceProblem, options: SolverOptions) -> ChoiceSolution:
    """Solve a program.

    Args:
        problem: the program.
        options: solver, time limit, gap.

    Returns:
        A solution; its `choice` is None if it is proven that no plan is feasible.

    Raises:
        NoPlanFoundError: the search ended before it found a plan.
        UsageError: the solver does not take this program.
    """
    solution = search(problem, options)
    if solution.status is Status.NO_PLAN_FOUND:
        raise NoPlanFoundError(f"{search_ended(options)} before any plan was found, and there may be one.")
    return solution


def search(problem: ChoiceProblem, options: SolverOptions) -> ChoiceSolution:
    """Solve a program like `attempt`; a search that ends without a plan is an answer, by its status, not an error.

    Args:
        problem: the program.
        options: solver, time limit, gap.

    Raises:
        UsageError: the solver does not take this program.
    """
    try:
        return solve(problem, options.solver, time_limit_s=options.time_limit_s, relative_gap=options.relative_gap)
    except SolverError as error:
        raise UsageError(str(error)) from None


def search_ended(options: SolverOptions) -> str:
    """Return the beginning of a message about a search that ended too early, with what to change.

    Args:
        options: with or without a time limit.
    """
    if options.time_limit_s is None:
        return "raise the limits or use another `solver`: the search ended"
    return f"`time_limit` = {options.time_limit_s:g} s: allow more time or raise the limits: the search ended"


def why_infeasible(task: PlanningTask, problem: ChoiceProblem, solution: ChoiceSolution) -> str:
    """Return one line: which limits conflict, and the nearest feasible value of each.

    Args:
        task: scores, limits and hardware.
        problem: the infeasible program.
        solution: its solution, with the conflicting rows.
    """
    constraints, parts = task.constraints, []
    for resource in solution.conflicts or tuple(solution.nearest_capacity):
        if resource in LINKS:
            parts.append(LINKS[resource].format(constraints.max_formats))
        row, nearest = task.hard.get(resource), solution.nearest_capacity.get(resource)
        if row is None or nearest is None:
            continue  # the scratchpad and the user's pins are not limits whose number could be raised
        unit = task.limits.inferences_per_s or 1.0 if row.measure == "bandwidth_bytes_per_s" else 1.0
        fixed = row.stated - row.capacity * unit
        floor, ceiling = nearest * unit + fixed, _ceiling(problem, resource) * unit + fixed
        stated, least, most = shown_apart(row.measure, row.stated, floor, ceiling)
        parts.append(
            f"{row.source} = {stated} is below the floor: nearest feasible {least}, ceiling {most}; "
            f"binding limit {row.measure}"
        )
    return "no plan keeps every limit: " + "; ".join(parts) + ". Raise it, or allow fewer --bits."


def _ceiling(problem: ChoiceProblem, resource: str) -> float:
    """Return the most of a resource that any plan can use, the limits ignored."""
    table = np.where(problem.mask(), problem.usage[resource], -np.inf)
    return math.fsum(table.max(axis=1))
