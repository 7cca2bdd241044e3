"""One model for each class of devices: the best plan under each device's own limits; a device that cannot is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwmodels import DeviceError

from ..costs.operations import Workload
from ..errors import InfeasibleError, UsageError
from ..spec.allocation import Allocation
from ..spec.limits import Limits
from ..spec.scores import ScoreTable
from .planner import allocation_of, solve_task
from .program import PlanningTask
from .solving import SolverOptions

if TYPE_CHECKING:
    from hwmodels import Device


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """A device with its best plan, or the reason why there is none."""

    device: str
    plan: Allocation | None
    reason: str = ""


def plan_for_each(
    scores: ScoreTable,
    devices: Sequence[Device],
    limits: Limits,
    workload: Workload,
    *,
    options: SolverOptions | None = None,
) -> list[DevicePlan]:
    """Solve the same model for each device under the given limits and the device's own.

    Args:
        scores: predicted loss of each choice.
        devices: target hardware.
        limits: what the user asked for on top.
        workload: sentences and tokens of one inference.
        options: solver, time limit, gap.
    """
    found = []
    for device in devices:
        try:
            task = PlanningTask(scores, limits, device=device, workload=workload)
            plan = allocation_of(task, solve_task(task, options or SolverOptions()))
            found.append(DevicePlan(device.id, plan))
        except (InfeasibleError, DeviceError, UsageError) as error:
            found.append(DevicePlan(device.id, None, str(error)))
    return found
