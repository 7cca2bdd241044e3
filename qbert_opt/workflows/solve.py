"""Solve for one or several plans from scores, limits and a device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from warnings import warn

from ..costs.phases import simulate_plan
from ..costs.portable import PortableTarget
from ..costs.workload import Workload
from ..errors import QbertOptWarning, UsageError
from ..planning.constraints import PlanConstraints
from ..planning.engine_outlook import engine_outlook
from ..planning.loss_limit import solve_asked
from ..planning.planner import allocation_of
from ..planning.program import PlanningTask
from ..planning.recipes import recipe_allocation
from ..planning.solving import Plan, SolverOptions
from ..planning.task_solver import top_plans
from ..spec.activations import ActivationChoice
from ..spec.allocation import Allocation
from ..spec.choices import choice
from ..spec.limits import Limits
from ..spec.scores import ScoreTable

if TYPE_CHECKING:
    from hwmodels import CostReport, Device
    from solvers import Refinement

Refine = Callable[[PlanningTask, Plan], "tuple[Plan, Refinement]"]


@dataclass(frozen=True, slots=True)
class Shortlist:
    """A request for several diverse plans.

    Attributes:
        count: largest number of plans, the best first.
        within: largest distance from the best value, relative to it.
        apart: minimum number of matrices in which two plans differ; None is a tenth of them.
    """

    count: int
    within: float = math.inf
    apart: int | None = None


@dataclass(frozen=True, slots=True)
class Solved:
    """A plan with its program and cost.

    Attributes:
        plan: the best plan.
        others: the rest of the shortlist, best first.
        report: predicted cost on the device, of a decoder's prompt; None without a device.
        token: predicted cost of a decoder's token; None for an encoder.
        program: the solved program; None for a recipe.
        refinement: what local search measured; None without refinement.
    """

    plan: Allocation
    others: tuple[Allocation, ...]
    report: CostReport | None
    program: Plan | None
    refinement: Refinement | None
    token: CostReport | None = None

    @property
    def plans(self) -> tuple[Allocation, ...]:
        """The whole shortlist, best first."""
        return (self.plan, *self.others)


def solve_plans(
    scores: ScoreTable,
    limits: Limits,
    *,
    device: Device | None = None,
    workload: Workload | None = None,
    constraints: PlanConstraints | None = None,
    activations: Sequence[ActivationChoice] = (),
    options: SolverOptions | None = None,
    shortlist: Shortlist | None = None,
    refine: Refine | None = None,
) -> Solved:
    """Solve for the best plan, a shortlist of diverse plans, or a plan improved by measuring.

    Args:
        scores: predicted loss of each choice.
        limits: limits on bytes, latency, memory, energy and traffic; the device's own limits count too.
        device: target hardware, or None.
        workload: sentences and tokens of one inference.
        constraints: what the plan must satisfy besides the limits.
        activations: choices for the inputs of matrices; none leaves them in floating point.
        options: solver, time limit and gap.
        shortlist: requests several plans.
        refine: local search on measured loss, applied to the best plan.

    Raises:
        InfeasibleError: no plan meets every limit; the message states the nearest feasible value, or the
            smallest predicted loss found.
        UsageError: the constraints leave no choice, or a limit needs a device.

    Warns:
        QbertOptWarning: a width was not scored in the form that the engines of a portable plan share.
    """
    task = PlanningTask(scores, limits, device=device, workload=workload, constraints=constraints)
    lost = task.target.lost_widths(map(choice, scores.choices)) if isinstance(task.target, PortableTarget) else None
    if lost is not None:
        warn(QbertOptWarning(lost), stacklevel=2)
    options = options or SolverOptions()
    task, program, inputs = solve_asked(task, options, activations)
    rivals: list[Plan] = []
    if shortlist is not None:
        rivals = top_plans(task, program, options, shortlist.count, shortlist.within, shortlist.apart)[1:]
    refinement = None
    if refine is not None:
        program, refinement = refine(task, program)
    refined = refinement is not None and bool(refinement.accepted)
    plan = allocation_of(task, program, inputs, answer=not refined)
    plan = plan.model_copy(update={"outlook": engine_outlook(task, program, inputs)})
    others = tuple(allocation_of(task, rival, inputs, answer=False) for rival in rivals)
    return Solved(plan, others, program.report, program, refinement, program.token)


def solve_recipe(
    scores: ScoreTable,
    recipe: str,
    limits: Limits,
    *,
    device: Device | None = None,
    workload: Workload | None = None,
    activations: Sequence[ActivationChoice] = (),
) -> Solved:
    """Make a plan by a published rule instead of solving.

    Args:
        scores: predicted loss of each choice.
        recipe: `qbert-2/3`, `qbert-2/4` or `uniform:CHOICE`.
        limits: only byte limits are used.
        device: target hardware, or None.
        workload: sentences and tokens of one inference.
        activations: choices for the inputs of matrices.

    Raises:
        InfeasibleError: the rule's smallest plan is too large.
        UsageError: unknown recipe, or scores that it cannot use.
    """
    plan = recipe_allocation(scores, recipe, limits, device=device, workload=workload, activations=activations)
    if device is None:
        return Solved(plan, (), None, None, None)
    report, token = simulate_plan(plan, device, workload or Workload(), inferences_per_s=limits.inferences_per_s)
    return Solved(plan, (), report, None, None, token)


def check_limits(limits: Limits, device: Device | None, constraints: PlanConstraints) -> None:
    """Reject a request without any limit, for which every matrix would take its largest choice.

    Args:
        limits: what the user asked for.
        device: target hardware, whose own limits count too.
        constraints: a largest loss counts as a limit.

    Raises:
        UsageError: there is neither a limit, nor a device, nor a largest loss.
    """
    unlimited = limits == Limits(inferences_per_s=limits.inferences_per_s)
    if unlimited and device is None and constraints.max_loss is None and constraints.least is None:
        raise UsageError("solve: no limit given. Give `budget`, for example 25MB, or `device`.")
