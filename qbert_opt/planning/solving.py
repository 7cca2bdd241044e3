"""Run a solver on a planning task: its options, the solved plan and its placement, and why no plan is feasible."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from solvers import PROVEN_GAP, ChoiceProblem, ChoiceSolution, SolverError, Status, relative_gap, solve

from ..costs.operations import Storage
from ..costs.phases import simulate_phases
from ..errors import NoPlanFoundError, UsageError
from ..spec.limits import Row
from ..spec.quantities import measured, shown_apart
from .plan_bytes import limited_bytes
from .program import RESIDENT_GOALS, PlanningTask
from .residency import least_energy_residency

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

    Raises:
        UsageError: a time limit that is not above 0, or a gap that is not at least 0.
    """

    solver: str = "auto"
    time_limit_s: float | None = None
    relative_gap: float = 1e-6

    def __post_init__(self) -> None:
        limit, gap = self.time_limit_s, self.relative_gap
        if limit is not None and not (_is_number(limit) and limit > 0):
            raise UsageError(f"`time_limit` {limit!r:.80}: give seconds, a number above 0, or None.")
        if not (_is_number(gap) and 0 <= gap < math.inf):
            raise UsageError(f"relative_gap {gap!r:.80}: give a number of at least 0.")

    def remaining(self, start: float) -> SolverOptions:
        """Return the options with what is left of the time limit.

        Args:
            start: when the time of the limit began, by `time.perf_counter`.
        """
        if self.time_limit_s is None:
            return self
        return replace(self, time_limit_s=max(start + self.time_limit_s - time.perf_counter(), 1e-6))


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True)
class Plan:
    """A solved program.

    Attributes:
        problem: the program.
        solution: its solution.
        storage: choice and residency of each item, by module.
        report: the simulator's report, of a decoder's prompt; None without a device.
        token: the simulator's report of a decoder's token with a full cache; None for an encoder.
        tightened: limits on latency or energy that were enforced by lowering their caps.
        judged: its cross-fitted loss, where it is known already.
    """

    problem: ChoiceProblem
    solution: ChoiceSolution
    storage: Mapping[str, Storage]
    report: CostReport | None
    token: CostReport | None = None
    tightened: tuple[str, ...] = ()
    judged: Judgement | None = None

    def measured(self, measure: str) -> float:
        """Return the scheduled value of a quantity.

        Args:
            measure: one that `spec.quantities.measured` knows.
        """
        return measured(self.report, measure, self.token)


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
    return checked(search(problem, options), options)


def checked(solution: ChoiceSolution, options: SolverOptions) -> ChoiceSolution:
    """Return a solution that has a plan, or proves that there is none.

    Args:
        solution: of any search.
        options: those of the search.

    Raises:
        NoPlanFoundError: the search ended before it found a plan.
    """
    if solution.status is Status.NO_PLAN_FOUND:
        raise NoPlanFoundError(f"{search_ended(options)} before any plan was found, and there may be one.")
    return solution


def search(problem: ChoiceProblem, options: SolverOptions) -> ChoiceSolution:
    """Solve a program like `attempt`, but report a search that ends without a plan in the status instead of raising.

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


def proven_against(solution: ChoiceSolution, lower_bound: float) -> ChoiceSolution:
    """Return a solution with the status and gap proven by a given lower bound.

    Args:
        solution: found under lowered caps, which prove nothing about the problem itself.
        lower_bound: of the objective, without lowered caps.
    """
    gap = relative_gap(solution.value, lower_bound)
    status = Status.OPTIMAL if gap <= PROVEN_GAP else Status.FEASIBLE
    status = solution.status if solution.status is Status.TIME_LIMIT else status
    return replace(solution, status=status, lower_bound=min(lower_bound, solution.value), gap=gap)


def placed(
    task: PlanningTask, choice: Sequence[int]
) -> tuple[dict[str, Storage], CostReport | None, CostReport | None]:
    """Decide which weights stay on chip, unless the program already did, and simulate the plan.

    Args:
        task: limits and hardware.
        choice: option of each item, an index into `task.tables.options`.

    Returns:
        How each item is stored, by module, the simulator's report (of a decoder's prompt), and that of a decoder's
        token; None without a device.
    """
    chosen = [task.tables.options[j] for j in choice]
    modules = [item.module for item in task.items]
    if task.device is not None and task.has_scratchpad and task.goal not in RESIDENT_GOALS:
        capacity = {"scratchpad_bytes": task.room_bytes}
        if "dram_bytes" in task.hard:
            capacity["dram_bytes"] = task.hard["dram_bytes"].capacity
        chosen = least_energy_residency(task.tables, modules, chosen, capacity)
    storage = dict(zip(modules, chosen, strict=True))
    if task.device is None:
        return storage, None, None
    report, token = simulate_phases(
        task.profile, storage, task.device, task.workload, inferences_per_s=task.limits.inferences_per_s,
        target=task.target,
    )  # fmt: skip
    return storage, report, token


def used(
    task: PlanningTask,
    storage: Mapping[str, Storage],
    report: CostReport | None,
    token: CostReport | None,
    row: Row,
) -> float:
    """Return what a plan uses of a limited quantity, in the limit's unit.

    Args:
        task: limits and hardware.
        storage: how each item is stored, by module.
        report: the simulator's report, of a decoder's prompt; None without a device.
        token: that of a decoder's token; None for an encoder.
        row: the limit.
    """
    own = limited_bytes(task.profile, storage, task.target)
    return own[row.measure] if row.measure in own else measured(report, row.measure, token)


def search_ended(options: SolverOptions) -> str:
    """Return the beginning of a message about a search that ended too early, and what to change.

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
            continue  # the scratchpad and the user's pins are not limits that could be raised
        unit = task.limits.inferences_per_s or 1.0 if row.measure == "bandwidth_bytes_per_s" else 1.0
        fixed = row.stated - row.capacity * unit
        floor, ceiling = nearest * unit + fixed, _ceiling(problem, resource) * unit + fixed
        stated, least, most = shown_apart(row.measure, row.stated, floor, ceiling)
        parts.append(
            f"{row.source} = {stated} is below the floor: nearest feasible {least}, ceiling {most}; "
            f"binding limit {row.measure}"
        )
    other = "" if constraints.bits is None else ", or allow other --bits"  # which some verbs do not have
    return "no plan meets every limit: " + "; ".join(parts) + f". Raise it{other}."


def _ceiling(problem: ChoiceProblem, resource: str) -> float:
    """Return the most of a resource that any plan can use, ignoring the limits."""
    table = np.where(problem.mask(), problem.usage[resource], -np.inf)
    return math.fsum(table.max(axis=1))
