"""The best plan of one model for each of several devices, under each device's own limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwmodels import DeviceError

from ..costs.devices import given_device
from ..costs.workload import Workload
from ..errors import InfeasibleError, UsageError
from ..spec.activations import selected_activations
from ..spec.allocation import Allocation
from ..spec.limits import Limits
from ..spec.scores import ScoreTable
from .loss_limit import solve_asked
from .planner import allocation_of
from .program import PlanningTask
from .solving import SolverOptions

if TYPE_CHECKING:
    from hwmodels import Device


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """A device with its best plan.

    Attributes:
        device: its name.
        plan: the plan; None where no plan fits.
        reason: why there is none.
    """

    device: str
    plan: Allocation | None
    reason: str = ""


def plan_for_each(
    scores: ScoreTable,
    devices: Sequence[Device | str],
    limits: Limits,
    workload: Workload,
    *,
    options: SolverOptions | None = None,
) -> list[DevicePlan]:
    """Solve the same model for each device, under the given limits and the device's own.

    Args:
        scores: predicted loss of each choice; scored inputs are rounded to the device's own width, as `solve` does.
        devices: target hardware: names, YAML files or loaded devices.
        limits: the user's limits, in addition to each device's own.
        workload: sentences and tokens of one inference.
        options: solver, time limit, gap; None takes the defaults.

    Returns:
        One entry for each device, in the same order; an infeasible device has a reason instead of a plan.

    Raises:
        DeviceError: there is no device of a given name.
    """
    plans = []
    for device in map(given_device, devices):
        try:
            task = PlanningTask(scores, limits, device=device, workload=workload)
            inputs = selected_activations(None, None, scores, device)
            plan = allocation_of(*solve_asked(task, options or SolverOptions(), inputs))
            plans.append(DevicePlan(device.id, plan))
        except (InfeasibleError, DeviceError, UsageError) as error:
            plans.append(DevicePlan(device.id, None, str(error)))
    return plans
