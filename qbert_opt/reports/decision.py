"""The HTML report of a plan, of a quantized folder, or of a result of `optimize`, made from files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import hwmodels

from ..costs.simulate import simulate_allocation
from ..costs.workload import Workload, planned_workload
from ..errors import InfeasibleError, QbertOptError
from ..planning.frontier import trade_off
from ..planning.program import PlanningTask
from ..spec.allocation import Allocation, read_allocation
from ..spec.limits import Limits
from ..spec.plan_scores import check_scores
from ..spec.scores import ScoreTable
from .html import html_report
from .measurements import Measurements

if TYPE_CHECKING:
    from hwmodels import Device

    from ..checkpoint.record import FolderRecord
    from ..engines.record import EngineRecord
    from ..workflows.optimize import Optimized

RELATIVE = 1e-6  # tolerance between the same simulation on two machines


def decision_page(
    plan: Allocation,
    *,
    scores: ScoreTable | None = None,
    devices: Sequence[Device] = (),
    workload: Workload | None = None,
    measured: Measurements | None = None,
    record: FolderRecord | EngineRecord | None = None,
) -> str:
    """Return the report of a plan with the frontier of its scores.

    Args:
        plan: the plan.
        scores: the scores that it was made from; None leaves out the frontier.
        devices: hardware to compare; the first is the one to decide on. Without any, it is the plan's own device, if
            that is bundled and unchanged.
        workload: sentences and tokens of one inference; None is the plan's own.
        measured: what was measured of the plan and its rivals.
        record: record of the quantized or exported folder that contains the plan.

    Raises:
        InfeasibleError: the first device cannot run the plan.
        InputFileError: the scores belong to another plan.
    """
    frontier = None
    if scores is not None:
        check_scores(plan, scores)
        frontier = trade_off(PlanningTask(scores, Limits()), ("bytes",))
    if workload is None:
        workload = planned_workload(plan)
    if devices:
        try:
            simulate_allocation(plan, devices[0], workload)
        except hwmodels.DeviceError as error:
            raise InfeasibleError(str(error)) from None
    return html_report(
        plan,
        scores=scores,
        frontier=frontier,
        devices=devices or _own_device(plan),
        workload=workload,
        measured=measured,
        record=record,
    )


def read_plan(path: str | Path) -> tuple[Allocation, FolderRecord | EngineRecord | None]:
    """Read a plan, or the plan and record of a quantized or exported folder.

    Args:
        path: an allocation.json, also one inside such a folder, or such a folder.

    Raises:
        InputFileError: the path is missing, damaged, or a folder of another kind.
    """
    given = Path(path)
    folder = given if given.is_dir() else given.parent
    file = given / "allocation.json" if given.is_dir() else given
    if file.name != "allocation.json" or not any(folder.glob("*.safetensors")):
        return read_allocation(file), None
    from ..engines.record import is_exported
    from ..engines.record import read_record as read_engine_record

    if is_exported(folder):
        return read_allocation(file), read_engine_record(folder)
    from ..checkpoint.record import read_record  # loads torch, which a plan alone does not need

    return read_allocation(file), read_record(folder)


def optimized_page(done: Optimized, device: Device | None = None) -> str:
    """Return the report of a result of `optimize`, with predicted beside measured figures.

    Args:
        done: the result of `optimize`; its folder contains the scores.
        device: the target that it was optimized for; None for none.

    Raises:
        InputFileError: the folder's scores are missing or damaged.
    """
    from ..spec.scores import read_scores
    from ..workflows.output_folder import SCORES
    from .measurements import of_outcome

    return decision_page(
        done.plan,
        scores=read_scores(done.folder / SCORES),
        devices=() if device is None else (device,),
        measured=of_outcome(done.outcome, str(done.folder / "optimized.json"), done.plan),
    )


def _own_device(plan: Allocation) -> tuple[Device, ...]:
    """Return the bundled device that the plan was made for; none if the plan's cost on it has changed since."""
    own = plan.device
    if own is None or own.name not in hwmodels.bundled_devices():
        return ()
    device = hwmodels.load_device(own.name)
    try:
        cost = simulate_allocation(plan, device, planned_workload(plan))
    except QbertOptError:
        return ()
    return (device,) if abs(cost.latency_s / own.latency_s - 1) < RELATIVE else ()
