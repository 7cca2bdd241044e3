"""`pareto --plot`: frontiers of several devices or tables, the papers' recipes, a chosen plan and measured points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..costs.operations import Workload
from ..errors import InfeasibleError, InputFileError, UsageError
from ..planning.constraints import RESOURCES
from ..planning.frontier import TradeOff, trade_off
from ..planning.program import PlanningTask
from ..spec.limits import Limits
from ..spec.scores import ScoreTable

if TYPE_CHECKING:
    from hwmodels import Device

    from ..reports.plots.frontier import Mark
    from ..spec.allocation import Allocation

ENDINGS = (".png", ".svg")


@dataclass(frozen=True, slots=True)
class Subject:
    """What a curve is of: a table of scores on a device."""

    label: str
    scores: ScoreTable
    device: Device | None


def subjects(
    scores: ScoreTable, label: str, devices: Sequence[Device | None], compare: Sequence[str] | None
) -> list[Subject]:
    """Every table on every device.

    Args:
        scores: the table of `--scores`, called `label` in pictures.
        label: its name.
        devices: target hardware; None is none.
        compare: `LABEL=scores.json` options.

    Raises:
        UsageError: a comparison that is not of that form.
    """
    from .options import load_scores

    tables = [(label, scores)]
    for text in compare or ():
        name, _, path = text.partition("=")
        if not name or not path:
            raise UsageError(f"--compare {text}: not of the form LABEL=scores.json, for example rtn=rtn.json.")
        tables.append((name, load_scores(path)))
    return [
        Subject(_joined(name if len(tables) > 1 else "", None if device is None else device.id) or name, table, device)
        for name, table in tables
        for device in devices
    ]


def check_plot(path: str | None) -> None:
    """Refuse an ending before the work is done.

    Raises:
        UsageError: neither PNG nor SVG.
    """
    if path is not None and Path(path).suffix.lower() not in ENDINGS:
        raise UsageError(f"--plot {path}: unknown ending {Path(path).suffix!r}. Legal: {', '.join(ENDINGS)}.")


def draw_frontiers(
    path: str,
    curves: Sequence[Subject],
    first: TradeOff | None,
    resources: tuple[str, ...],
    points: int,
    workload: Workload,
    *,
    plan: str | None = None,
    measured: str | None = None,
) -> None:
    """Draw one curve for each subject, or the surface of two resources of a single one.

    Args:
        path: PNG or SVG.
        curves: what to draw; the first one's frontier is `first`, if it is known already.
        first: frontier of the first subject.
        resources: one or two names in `RESOURCES`.
        points: budgets of each frontier.
        workload: sentences and tokens of one inference.
        plan: an allocation.json to mark.
        measured: a file of measured points.
    """
    from ..reports.plots import frontier, surface
    from ..reports.plots.plan import save

    marks = _marks(curves[0], plan, measured, workload)
    if len(resources) == 2:
        if len(curves) > 1:
            raise UsageError("--plot: two resources are drawn for one device and one table at a time.")
        found = first or _frontier(curves[0], resources, points, workload)
        if isinstance(found, str):
            raise InfeasibleError(found)
        save(surface.draw(found, marks), path)
        return
    drawn = []
    for index, subject in enumerate(curves):
        result = first if index == 0 and first is not None else _frontier(subject, resources, points, workload)
        if isinstance(result, str):
            drawn.append(frontier.Curve(subject.label, None, result))
        else:
            drawn.append(frontier.Curve(subject.label, result))
    save(frontier.draw(drawn, resources[0], marks), path)


def _frontier(subject: Subject, resources: tuple[str, ...], points: int, workload: Workload) -> TradeOff | str:
    """A frontier, or the reason why there is none."""
    try:
        task = PlanningTask(subject.scores, Limits(), device=subject.device, workload=workload)
        return trade_off(task, resources, points=points)
    except InfeasibleError as error:
        return str(error)


def _marks(subject: Subject, plan: str | None, measured: str | None, workload: Workload) -> list[Mark]:
    from ..planning.measured_points import read_measured
    from ..planning.recipes import RECIPES, recipe_allocation
    from ..reports.plots.frontier import Mark
    from ..spec.allocation import read_allocation

    def usage(found: Allocation) -> dict[str, float]:
        cost = found.device
        own = (
            {} if cost is None else {"latency": cost.latency_bound_s, "energy": cost.energy_j, "dram": cost.dram_bytes}
        )
        return {"bytes": found.encoder_bytes, **own}

    marks = []
    if subject.scores.block_sensitivity:
        for recipe in RECIPES:
            found = recipe_allocation(subject.scores, recipe, Limits(), device=subject.device, workload=workload)
            marks.append(Mark(recipe, "recipe", usage(found), *_interval(found)))
    if measured is not None:
        for point in read_measured(measured).points:
            marks.append(Mark(f"measured: {point.name}", "measured", point.usage, point.loss, point.low, point.high))
    if plan is not None:
        chosen = read_allocation(plan)
        if chosen.profile.sha256 != subject.scores.profile.sha256:
            raise InputFileError(
                f"{plan}: is a plan of {chosen.profile.name}; the scores are of {subject.scores.profile.name}."
            )
        marks.append(Mark("chosen plan", "chosen", usage(chosen), *_interval(chosen)))
    return marks


def _interval(plan: Allocation) -> tuple[float, float, float]:
    """Predicted loss, and one standard error below and above; below stays above zero for a logarithmic axis."""
    loss, error = plan.predicted_loss, plan.predicted_std_error
    return loss, max(loss - error, loss / 10), loss + error


def parse_resources(text: str) -> tuple[str, ...]:
    """Read `bytes,latency`.

    Raises:
        UsageError: unknown, or more than two.
    """
    names = tuple(part.strip() for part in text.split(","))
    if len(names) > 2:
        raise UsageError(f"--resource {text}: at most two at once.")
    for name in names:
        if name not in RESOURCES:
            raise UsageError(f"--resource {name}: legal: {', '.join(RESOURCES)}.")
    return names


def _joined(*parts: str | None) -> str:
    return ", ".join(part for part in parts if part)
