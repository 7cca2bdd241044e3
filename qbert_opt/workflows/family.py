"""A family of plans from one run: over sizes or latencies, and for devices, with bits and depth chosen together.

The model is measured once without each set of layers. Every member is what `solve --allow-drop` finds for its budget or
device, with its proof over all depths; scored inputs are rounded as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from hwmodels import DeviceError

from ..costs.devices import given_device
from ..costs.workload import Workload
from ..errors import InfeasibleError, UsageError
from ..planning.constraints import RESOURCES
from ..planning.depth import shortened_scores
from ..planning.device_classes import DevicePlan
from ..planning.program import PlanningTask
from ..planning.solving import SolverOptions
from ..runtime.progress import Progress, silent
from ..scoring.layer_drops import Shortened
from ..spec.activations import selected_activations
from ..spec.allocation import Allocation
from ..spec.limits import Limits
from ..spec.scores import ScoreTable
from .depth import best_depth
from .solve import Solved, solve_plans

if TYPE_CHECKING:
    from hwmodels import Device

Size = Literal["bytes", "total-bytes", "latency"]
LIMITED: dict[Size, str] = {"bytes": "encoder_bytes", "total-bytes": "total_bytes", "latency": "latency_s"}
"""The limit that belongs to each resource over which a family may extend."""


@dataclass(frozen=True, slots=True)
class Member:
    """One model of a family.

    Attributes:
        budget: in bytes or seconds; no plan within it loses less, by the sum of scores.
        plan: its choices, missing layers, loss and cost.
    """

    budget: float
    plan: Allocation


def family(
    scores: ScoreTable,
    shortened: Sequence[Shortened],
    resource: Size,
    *,
    points: int = 12,
    device: Device | None = None,
    workload: Workload | None = None,
    options: SolverOptions | None = None,
    progress: Progress = silent,
) -> tuple[Member, ...]:
    """Return the best plan of any depth for evenly spaced budgets, starting at the smallest that any depth allows.

    Args:
        scores: of the whole model.
        shortened: the model without each set of layers, as measured.
        resource: what the budgets limit.
        points: number of budgets; budgets with the same best plan give one member.
        device: target hardware, whose own limits count too; `latency` needs one.
        workload: sentences and tokens of one inference.
        options: solver, time limit, gap.
        progress: called with budgets done, number of budgets, and the current step.

    Returns:
        The members, the smallest first.

    Raises:
        InfeasibleError: no budget has a plan, because of the device's own limits.
        UsageError: another resource, one that needs a device, or fewer than two points.
    """
    if resource not in LIMITED:
        raise UsageError(f"`resource` {resource}: a family extends over one of {', '.join(LIMITED)}.")
    if resource == "latency" and device is None:
        raise UsageError("`resource` latency: needs `device`, which determines its cost.")
    if points < 2:
        raise UsageError(f"`points` {points}: give 2 or more.")
    tables = [scores, *(shortened_scores(scores, item) for item in shortened)]
    ranges = [_usage(PlanningTask(t, Limits(), device=device, workload=workload), RESOURCES[resource]) for t in tables]
    budgets = np.linspace(min(least for least, _ in ranges), ranges[0][1], points).tolist()
    members: list[Member] = []
    refusal: InfeasibleError | None = None
    for number, budget in enumerate(budgets):
        progress(number, points, "budgets")
        capacity = budget if resource == "latency" else int(budget)
        limits = replace(Limits(), **{LIMITED[resource]: capacity})
        try:
            plan = _best(scores, shortened, limits, device, workload, options)
        except InfeasibleError as error:
            refusal = error
            continue
        if not members or _kept(members[-1].plan) != _kept(plan):
            members.append(Member(capacity, plan))
    if not members and refusal is not None:
        raise refusal
    return tuple(members)


def family_on_devices(
    scores: ScoreTable,
    shortened: Sequence[Shortened],
    devices: Sequence[Device | str],
    limits: Limits,
    workload: Workload,
    *,
    options: SolverOptions | None = None,
    progress: Progress = silent,
) -> list[DevicePlan]:
    """Return the best plan of any depth for each device, as `plan_for_each` does for the whole model.

    Args:
        scores: of the whole model.
        shortened: the model without each set of layers, as measured.
        devices: target hardware: names, YAML files or loaded devices.
        limits: the user's limits, in addition to each device's own.
        workload: sentences and tokens of one inference.
        options: solver, time limit, gap.
        progress: called with devices done, number of devices, and the current one.

    Returns:
        One entry for each device, in the same order; an infeasible device has a reason instead of a plan.

    Raises:
        DeviceError: there is no device of a given name.
    """
    found = []
    for number, device in enumerate(map(given_device, devices)):
        progress(number, len(devices), device.id)
        try:
            found.append(DevicePlan(device.id, _best(scores, shortened, limits, device, workload, options)))
        except (InfeasibleError, DeviceError, UsageError) as error:
            found.append(DevicePlan(device.id, None, str(error)))
    return found


def _best(
    scores: ScoreTable,
    shortened: Sequence[Shortened],
    limits: Limits,
    device: Device | None,
    workload: Workload | None,
    options: SolverOptions | None,
) -> Allocation:
    def solve(table: ScoreTable) -> Solved:
        inputs = selected_activations(None, None, table, device)
        return solve_plans(table, limits, device=device, workload=workload, activations=inputs, options=options)

    return best_depth(scores, shortened, solve)[1].plan


def _usage(task: PlanningTask, row: str) -> tuple[float, float]:
    """Return the least use of a resource by any plan, and its use by the plan of least loss without limits."""
    problem, fixed = task.problem({}), task.tables.fixed[row]
    usage = np.where(problem.mask(), problem.usage[row], np.inf)
    best = np.where(problem.mask(), problem.value, np.inf).argmin(axis=1)
    return fixed + float(usage.min(axis=1).sum()), fixed + float(usage[np.arange(len(usage)), best].sum())


def _kept(plan: Allocation) -> object:
    """The fields in which two plans of the same model agree."""
    layers = None if plan.dropped is None else plan.dropped.layers
    inputs = [(item.bits, item.scheme, item.range) for item in plan.activations]
    return layers, [item.choice for item in plan.matrices], [item.choice for item in plan.tables], inputs
