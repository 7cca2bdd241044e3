"""Frontiers side by side: tables of scores on devices, and the plans to mark beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..costs.workload import Workload
from ..errors import InfeasibleError
from ..planning.frontier import TradeOff, trade_off
from ..planning.measured_points import MeasuredPoints
from ..planning.program import PlanningTask
from ..planning.recipes import RECIPES, recipe_allocation
from ..spec.allocation import Allocation
from ..spec.limits import Limits
from ..spec.plan_scores import check_scores
from ..spec.scores import ScoreTable

if TYPE_CHECKING:
    from hwmodels import Device


@dataclass(frozen=True, slots=True)
class Subject:
    """The subject of a frontier.

    Attributes:
        label: its name in the picture and the table.
        scores: predicted loss of each choice.
        device: the target; None without one.
    """

    label: str
    scores: ScoreTable
    device: Device | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """A frontier with its name.

    Attributes:
        label: name of its subject.
        trade_off: the frontier; None where no plan exists.
        reason: why there is none.
    """

    label: str
    trade_off: TradeOff | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """A plan to be shown beside the curves.

    Attributes:
        label: what the picture calls it.
        kind: the plan that was chosen, one made by a published recipe, or one that was measured.
        usage: by resource, as in `RESOURCES`: bytes, seconds, joules.
        loss: predicted or measured, in the unit of the frontier's loss.
        low: lower end of an interval around `loss`; None where there is none.
        high: upper end.
    """

    label: str
    kind: Literal["chosen", "recipe", "measured"]
    usage: dict[str, float]
    loss: float
    low: float | None = None
    high: float | None = None


def subjects(tables: Sequence[tuple[str, ScoreTable]], devices: Sequence[Device | None]) -> list[Subject]:
    """Pair every table of scores with every device; a label names what tells a subject from the others.

    Args:
        tables: label and scores of each.
        devices: target hardware; None is none.
    """
    pairs = []
    for label, scores in tables:
        for device in devices:
            parts = [label] if len(tables) > 1 or device is None else []
            pairs.append(Subject(", ".join(parts + ([] if device is None else [device.id])), scores, device))
    return pairs


def frontiers(
    of: Sequence[Subject],
    resources: tuple[str, ...] = ("bytes",),
    *,
    points: int = 200,
    workload: Workload | None = None,
) -> list[Curve]:
    """Compute the frontier of each subject; one without any plan has the reason instead.

    Args:
        of: tables of scores on devices.
        resources: one or two names in `RESOURCES`.
        points: budgets of each resource between the smallest and the largest.
        workload: sentences and tokens of one inference; by default one sentence of 128.

    Raises:
        UsageError: a resource is unknown, or needs a device that a subject lacks.
    """
    curves = []
    for subject in of:
        try:
            task = PlanningTask(subject.scores, Limits(), device=subject.device, workload=workload or Workload())
            curves.append(Curve(subject.label, trade_off(task, resources, points=points)))
        except InfeasibleError as error:
            curves.append(Curve(subject.label, None, str(error)))
    return curves


def marks(
    subject: Subject,
    *,
    plan: Allocation | None = None,
    measured: MeasuredPoints | None = None,
    workload: Workload | None = None,
) -> list[Mark]:
    """Return the plans to show beside a subject's frontier: published recipes, measured points, the chosen plan.

    Args:
        subject: recipes are applied to its scores, where these hold the sensitivity that a recipe needs.
        plan: the chosen plan, of the same model.
        measured: points that were measured.
        workload: sentences and tokens of one inference; by default one sentence of 128.

    Raises:
        InputFileError: the plan is of another model.
    """
    if plan is not None:
        check_scores(plan, subject.scores)
    shown = []
    if subject.scores.block_sensitivity:
        for recipe in RECIPES:
            made = recipe_allocation(subject.scores, recipe, Limits(), device=subject.device, workload=workload)
            shown.append(_mark(recipe, "recipe", made))
    for point in () if measured is None else measured.points:
        shown.append(Mark(f"measured: {point.name}", "measured", point.usage, point.loss, point.low, point.high))
    if plan is not None:
        shown.append(_mark("chosen plan", "chosen", plan))
    return shown


def _mark(label: str, kind: Literal["chosen", "recipe"], plan: Allocation) -> Mark:
    """A plan at its predicted loss, with one standard error; the lower end stays above zero for a logarithmic axis."""
    usage: dict[str, float] = {"bytes": plan.encoder_bytes}
    if plan.device is not None:
        cost = plan.device
        usage |= {"latency": cost.latency_bound_s, "energy": cost.energy_j, "dram": cost.dram_bytes}
    loss, error = plan.predicted_loss, plan.predicted_std_error
    return Mark(label, kind, usage, loss, max(loss - error, loss / 10), loss + error)
