"""A plan as one self-contained HTML file that needs no network; names are escaped, whatever characters they have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hwmodels import format_bytes

from ..costs.workload import Workload, in_phase
from ..planning.frontier import TradeOff
from ..spec.allocation import Allocation
from ..spec.planned import PlannedMatrix
from ..spec.quantities import shown
from ..spec.scores import ScoreTable
from .comparison import COLUMNS, comparison_lines, measuring_commands
from .device_and_budget import (
    BUDGET_COLUMNS,
    budget_advice,
    budget_lines,
    device_advice,
    device_columns,
    device_lines,
)
from .frontier_chart import frontier_chart
from .html_charts import bit_map
from .html_device import device_part
from .measurements import Measurements
from .plan import TITLES, gain_text, rounded_inputs
from .printing import measure_name
from .rivals import UNSCORED, rivals
from .verdict import Case, verdict_lines

if TYPE_CHECKING:
    from hwmodels import Device

    from ..checkpoint.record import FolderRecord
    from ..engines.record import EngineRecord

CHARTS = ((1240, 420), (480, 340))
"""Sizes of the frontier chart in px, for a wide and for a narrow screen, so that its text has the same size on both."""


def html_report(
    plan: Allocation,
    *,
    scores: ScoreTable | None = None,
    frontier: TradeOff | None = None,
    devices: Sequence[Device] = (),
    workload: Workload | None = None,
    measured: Measurements | None = None,
    record: FolderRecord | EngineRecord | None = None,
) -> str:
    """Render a plan as the HTML page that helps to decide on it.

    Args:
        plan: the plan.
        scores: the scores that it was made from; they also predict the loss of uniform plans.
        frontier: loss over encoder bytes, from the plan's own scores.
        devices: hardware to price it on; the first is the one to decide on.
        workload: sentences and tokens of one inference; None is one sentence of 128 tokens.
        measured: what was measured of the plan and its rivals.
        record: record of the quantized or exported folder with the plan; training makes the plan's prediction void.
    """
    found = measured or Measurements()
    workload = in_phase(plan.profile, workload or Workload())
    priced = rivals(plan, scores, devices, workload, found.uniform_8bit_choice)
    case = Case(plan, priced, found, tuple(devices), record, workload)
    verdict, *others = verdict_lines(case)
    lines = comparison_lines(case)
    cost = priced[-1].cost(case.device)
    name = plan.profile.name
    has_frontier = frontier is not None and bool(frontier.points)
    context: dict[str, Any] = {
        "title": f"{name}: {plan.encoder_bytes / 1e6:.2f} MB of matrices, {plan.average_bits:.2f} bits per weight",
        "subtitle": f"{plan.profile.architecture}, {plan.profile.num_blocks} layers, {len(plan.matrices)} matrices, "
        f"{plan.total_bytes / 1e6:.2f} MB in all; {_proof(plan)}",
        "verdict": verdict,
        "verdict_details": others,
        "comparison_columns": COLUMNS,
        "comparison": lines,
        "commands": measuring_commands(lines, decoder=plan.profile.causal),
        "contains": _contains(plan),
        "bit_map": bit_map(plan),
        "part": plan.profile.part.capitalize(),
        "charts": _charts(case, frontier) if frontier is not None and has_frontier else [],
        "no_curve": "No frontier: give --scores, the scores that the plan was made from.",
        "budget_columns": BUDGET_COLUMNS,
        "budgets": budget_lines(case, frontier) if frontier is not None and has_frontier else (),
        "budget_advice": [*_next_mb(plan), *(budget_advice(case, frontier) if frontier is not None else ())],
        "limits": _limits(plan),
        "plan_rivals": _rivals(plan, trained=case.is_trained),
        "measured": _measured(plan, found, trained=case.is_trained),
        "measured_what": found.what,
        "device_columns": device_columns(plan.profile),
        "devices": device_lines(case) if case.devices else (),
        "device_advice": device_advice(case) if case.devices else "",
        "device": None if cost is None or isinstance(cost, str) else device_part(case, cost),
        "no_device": "No device: give --device, the target hardware.",
        "trained": case.is_trained,
        "headings": [{"name": n, "number": number} for n, number in HEADINGS],
        "matrices": [_row(m) for m in plan.matrices],
        "origin": _origin(plan),
    }
    folder = Path(__file__).parent / "templates"
    environment = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html").render(context)


HEADINGS = (
    ("layer", True),
    ("matrix", False),
    ("bits", True),
    ("groups", False),
    ("score", True),
    ("± std error", True),
    ("bytes", True),
    ("kept", False),
    ("method", False),
    ("rows × inputs", True),
    ("module", False),
)
"""The most important rows first."""


def _contains(plan: Allocation) -> str:
    if plan.metric == UNSCORED:
        return "No loss is predicted, because the plan was made without scores."
    return f"Loss: {plan.loss_unit}, relative to float32; predicted ones contain {plan.contains}, {judged_by(plan)}."


def judged_by(plan: Allocation) -> str:
    """Return where the prediction comes from, in a few words.

    Args:
        plan: a plan with or without a cross-fitted prediction.
    """
    if plan.folds:
        return "on text that did not choose the plan"
    return "as the sum of scores" if plan.status == "unproven" else "as the sum of scores that chose it: optimistic"


def _row(m: PlannedMatrix) -> list[dict[str, Any]]:
    cells: Sequence[tuple[object, object]] = (
        (m.block + 1, m.block + 1),
        (TITLES.get(m.kind, m.kind),) * 2,
        (m.bits, m.bits),
        (m.grouping,) * 2,
        (f"{m.predicted_loss:.3g}", m.predicted_loss),
        (f"{m.std_error:.1g}", m.std_error),
        (f"{m.bytes:,}", m.bytes),
        ("on chip" if m.residency == "resident" else "streamed",) * 2,
        (m.method + ("" if m.form == "offset" else f"/{m.form}"),) * 2,
        (f"{m.rows} × {m.columns}", m.rows * m.columns),
        (m.module,) * 2,
    )
    return [
        {"text": text, "key": key, "number": number} for (text, key), (_, number) in zip(cells, HEADINGS, strict=True)
    ]


def _proof(plan: Allocation) -> str:
    gap = "" if plan.gap is None else f", proven gap {plan.gap:.1e}"
    return f"{plan.status}{gap} ({plan.solver})"


def _charts(case: Case, frontier: TradeOff) -> list[dict[str, Any]]:
    charts = (
        frontier_chart(
            case.plan, frontier, case.measurements.models, width=width, height=height, own_loss=not case.is_trained
        )
        for width, height in CHARTS
    )
    return [chart for chart in charts if chart is not None]


def _next_mb(plan: Allocation) -> list[str]:
    if plan.next_mb_gain is None:
        return []
    return [f"One more MB of budget {gain_text(plan.next_mb_gain, plan.predicted_loss)}."]


def _limits(plan: Allocation) -> list[dict[str, Any]]:
    return [
        {
            "name": f"{limit.source}: {measure_name(limit.resource, plan.profile)}",
            "used": shown(limit.resource, limit.used),
            "capacity": shown(limit.resource, limit.capacity),
            "share": f"{100 * limit.used / limit.capacity:.1f} %" if limit.capacity else "-",
            "binds": limit.binds,
        }
        for limit in plan.limits
    ]


def _rivals(plan: Allocation, *, trained: bool) -> list[dict[str, str]]:
    ours = "this plan, before training" if trained else "this plan"
    rows: list[tuple[str, int | None, float]] = [(ours, plan.encoder_bytes, plan.predicted_loss)]
    if plan.folds:
        rows.append(("this plan, the minimized sum of scores", plan.encoder_bytes, plan.sum_of_scores))
    rows += [(f"every matrix {u.choice}", u.encoder_bytes, u.predicted_loss) for u in plan.uniform]
    if plan.random_loss is not None:
        rows.append(("random plans within the same limits, median", None, plan.random_loss))
    if plan.lower_bound is not None and plan.objective == "sum_of_scores":
        rows.append(("proven lower bound of the sum of scores", None, plan.lower_bound))
    return [
        {
            "name": name,
            "bytes": "-" if size is None else format_bytes(size),
            "loss": f"{loss:.4g}",
            "ratio": f"{loss / plan.predicted_loss:.2f}x" if plan.predicted_loss > 0 else "-",
        }
        for name, size, loss in rows
    ]


def _measured(plan: Allocation, measured: Measurements, *, trained: bool) -> list[dict[str, str]]:
    """Return every measured loss, with the predicted one beside the plan's own unless training made it void."""
    rows = []
    for model in measured.models:
        if model.loss is None:
            continue
        predicted = plan.predicted_loss if model is measured.plan and not trained else None
        loss = model.loss
        rows.append(
            {
                "name": model.name,
                "predicted": "-" if predicted is None else f"{predicted:.4g}",
                "loss": f"{loss.value:.4g}",
                "interval": f"{loss.low:.4g} to {loss.high:.4g}" if loss.high > loss.low else "-",
                "ratio": f"{loss.value / predicted:.2f}x" if predicted else "-",
            }
        )
    return rows


def _origin(plan: Allocation) -> list[dict[str, object]]:
    p = plan.provenance
    accuracy = "" if p.scored_accuracy is None else f", accuracy there {100 * p.scored_accuracy:.1f} %"
    drawn = f" drawn from {p.num_pool}" if p.num_pool else ""
    facts = {
        "model": f"{plan.profile.name}, sha256 {plan.profile.sha256}",
        "scores": f"metric {plan.metric}, method {plan.method}, commit {p.commit}, version {p.version}, {p.date}",
        "calibration text": f"{p.data}: {p.num_calibration} texts to fit, {p.num_scored} to score{drawn}, "
        f"{p.mean_tokens:.1f} tokens each{accuracy}; sha256 {p.data_sha256}; seed {p.seed}",
        "plan": f"{_proof(plan)}, version {plan.version}",
        "embedding tables": "; ".join(f"{t.module} {t.bits} bits, {format_bytes(t.bytes)}" for t in plan.tables) or "-",
        "inputs": rounded_inputs(plan) or "not rounded",
    }
    return [{"name": name, "value": value} for name, value in facts.items()]
