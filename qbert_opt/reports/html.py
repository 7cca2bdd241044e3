"""A plan as one HTML file: no network, no second file; every name in it is text, whatever characters it holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hwmodels import format_bytes, format_joules, format_seconds

from ..planning.frontier import TradeOff
from ..planning.measured_points import MeasuredPoints
from ..spec.allocation import Allocation
from ..spec.limits import shown
from ..spec.planned import PlannedMatrix
from .html_charts import frontier_curve, heat_map, stacked_bar
from .plan import TITLES, better_uniform, rounded_inputs
from .printing import MEASURES

if TYPE_CHECKING:
    from hwmodels import CostReport


def html_report(
    plan: Allocation,
    *,
    frontier: TradeOff | None = None,
    cost: CostReport | None = None,
    measured: MeasuredPoints | None = None,
) -> str:
    """Render a plan.

    Args:
        plan: the plan.
        frontier: loss over encoder bytes, of the plan's own scores.
        cost: what the plan costs on a device.
        measured: points that were measured; the first is taken for this plan.
    """
    folder = Path(__file__).parent / "templates"
    environment = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    name = plan.profile.name
    context: dict[str, Any] = {
        "title": f"{name}: {plan.encoder_bytes / 1e6:.2f} MB, {plan.average_bits:.2f} bits per weight",
        "subtitle": f"{plan.profile.architecture}, {plan.profile.num_blocks} layers, {len(plan.matrices)} matrices; "
        f"{_proof(plan)}",
        "tiles": _tiles(plan, cost),
        "contains": f"Predicted loss contains: {plan.contains}. Unit: {plan.loss_unit}.",
        "heat": heat_map(plan),
        "curve": None if frontier is None or not frontier.points else frontier_curve(plan, frontier, measured),
        "no_curve": "No frontier: give --scores, the scores that the plan was made of.",
        "limits": _limits(plan),
        "rivals": _rivals(plan),
        "better_uniform": better_uniform(plan),
        "measured": [] if measured is None else _measured(plan, measured),
        "measured_what": "" if measured is None else measured.what,
        "device": None if cost is None else _device(cost),
        "no_device": "No device: give --device, the target hardware.",
        "headings": [{"name": n, "number": number} for n, number in HEADINGS],
        "matrices": [_row(m) for m in plan.matrices],
        "origin": _origin(plan),
    }
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
"""What matters first: on a narrow screen the last columns are the ones to scroll to."""


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


def judged_by(plan: Allocation) -> str:
    """Where the prediction comes from, in a few words.

    Args:
        plan: with or without cross-fitted prediction.
    """
    if plan.folds:
        return "on text that did not choose the plan"
    return "sum of scores" if plan.status == "unproven" else "sum of the scores that chose the plan: optimistic"


def _tiles(plan: Allocation, cost: CostReport | None) -> list[dict[str, str]]:
    smaller = 4 * plan.profile.encoder_elements / plan.encoder_bytes
    tiles = [
        ("encoder matrices", f"{plan.encoder_bytes / 1e6:.2f} MB", f"{smaller:.1f}x smaller than float32"),
        ("whole model", f"{plan.total_bytes / 1e6:.2f} MB", "tables, biases, norms and head included"),
        ("bits per weight", f"{plan.average_bits:.3f}", "scales and offsets counted"),
        ("predicted loss", f"{plan.predicted_loss:.3g}", f"± {plan.predicted_std_error:.1g}, {judged_by(plan)}"),
    ]
    if cost is not None:
        tiles += [
            ("latency", format_seconds(cost.latency_s), f"predicted on {cost.device}"),
            ("peak memory", format_bytes(cost.peak_memory_bytes), "weights and activations"),
            ("energy", format_joules(cost.energy_j), "per inference"),
        ]
    if plan.next_mb_gain is not None and plan.next_mb_gain > 0 and plan.predicted_loss > 0:
        share = 100 * plan.next_mb_gain / plan.predicted_loss
        tiles.append(("one more MB", f"−{share:.1f} %", "of the predicted loss"))
    return [{"name": name, "value": value, "note": note} for name, value, note in tiles]


def _limits(plan: Allocation) -> list[dict[str, Any]]:
    return [
        {
            "name": f"{limit.source}: {MEASURES[limit.resource]}",
            "used": shown(limit.resource, limit.used),
            "capacity": shown(limit.resource, limit.capacity),
            "share": f"{100 * limit.used / limit.capacity:.1f} %" if limit.capacity else "-",
            "binds": limit.binds,
        }
        for limit in plan.limits
    ]


def _rivals(plan: Allocation) -> list[dict[str, str]]:
    rows: list[tuple[str, int | None, float]] = [("this plan", plan.encoder_bytes, plan.predicted_loss)]
    if plan.folds:
        rows.append(("this plan, the sum of scores that was least", plan.encoder_bytes, plan.sum_of_scores))
    rows += [(f"every matrix {u.choice}", u.encoder_bytes, u.predicted_loss) for u in plan.uniform]
    if plan.random_loss is not None:
        rows.append(("random plans in the same limits, median", None, plan.random_loss))
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


def _measured(plan: Allocation, measured: MeasuredPoints) -> list[dict[str, str]]:
    rows = []
    for index, point in enumerate(measured.points):
        predicted = plan.predicted_loss if index == 0 else None
        rows.append(
            {
                "name": point.name,
                "predicted": "-" if predicted is None else f"{predicted:.4g}",
                "loss": f"{point.loss:.4g}",
                "interval": "-" if point.low is None or point.high is None else f"{point.low:.4g} to {point.high:.4g}",
                "ratio": f"{point.loss / predicted:.2f}x" if predicted else "-",
            }
        )
    return rows


def _device(cost: CostReport) -> dict[str, Any]:
    by_kind: defaultdict[str, float] = defaultdict(float)
    for row in cost.operations:
        by_kind[_part(row.cost.name)] += row.cost.latency_bound_s
    low, high = cost.latency_interval_s
    facts = [
        ("latency, scheduled", f"{format_seconds(cost.latency_s)}; sum of operations "
         f"{format_seconds(cost.latency_bound_s)}; expect {format_seconds(low)} to {format_seconds(high)} if measured"),
        ("peak memory", f"{format_bytes(cost.peak_memory_bytes)}: weights {format_bytes(cost.weight_bytes)}, "
         f"activations {format_bytes(cost.peak_activation_bytes)}"),
        ("kept on chip", f"{format_bytes(cost.scratchpad_bytes)} of {format_bytes(cost.scratchpad_room_bytes)}"),
        ("DRAM traffic", f"{format_bytes(cost.dram_bytes)} per inference"),
        ("energy", f"{format_joules(cost.energy_j)}, of which {format_joules(cost.dynamic_energy_j)} dynamic"),
        ("unpacking", f"{format_seconds(cost.unpack_s)}, saves {format_seconds(cost.dram_saved_s)} of DRAM time "
         "against 8 bits"),
        ("device file", f"{cost.sourced_figures} of {cost.all_figures} figures have a source; {cost.confidence}"),
        *(("over limit", line) for line in cost.over_limits),
        *(("note", line) for line in cost.notes),
    ]  # fmt: skip
    return {
        "headline": f"{cost.device}, predicted: {format_seconds(cost.latency_s)} per inference",
        "bars": [
            stacked_bar(
                "What operations wait for", {k: v * cost.latency_bound_s for k, v in cost.bound_shares.items()}
            ),
            stacked_bar("Time by operation", by_kind),
        ],
        "facts": [{"name": name, "value": value} for name, value in facts],
    }


def _part(operation: str) -> str:
    """Which part of the model an operation belongs to."""
    name = operation.lower()
    if "embed" in name:
        return "embeddings"
    parts = {"scores": "attention products", "context": "attention products", "softmax": "softmax", "gelu": "gelu"}
    last = name.rsplit(".", 1)[-1]
    if last in parts:
        return parts[last]
    if last in ("add", "norm"):
        return "additions and norms"
    return "products with weights"


def _origin(plan: Allocation) -> list[dict[str, object]]:
    p = plan.provenance
    accuracy = "" if p.scored_accuracy is None else f", accuracy there {100 * p.scored_accuracy:.1f} %"
    facts = {
        "model": f"{plan.profile.name}, sha256 {plan.profile.sha256}",
        "scores": f"metric {plan.metric}, method {plan.method}, commit {p.commit}, version {p.version}, {p.date}",
        "calibration text": f"{p.data}: {p.num_calibration} texts to fit, {p.num_scored} to score, "
        f"{p.mean_tokens:.1f} tokens each{accuracy}; sha256 {p.data_sha256}; seed {p.seed}",
        "plan": f"{_proof(plan)}, version {plan.version}",
        "embedding tables": "; ".join(f"{t.module} {t.bits} bits, {format_bytes(t.bytes)}" for t in plan.tables) or "-",
        "inputs": rounded_inputs(plan) or "not rounded",
    }
    return [{"name": name, "value": value} for name, value in facts.items()]
