"""The device's part of the HTML report: predicted costs, bars by operation, facts."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from hwmodels import format_bytes, format_joules, format_seconds

from .cost import band
from .decoding import decoder_facts, expected
from .html_charts import stacked_bar
from .verdict import Case, trust

if TYPE_CHECKING:
    from hwmodels import CostReport


def device_part(case: Case, cost: CostReport) -> dict[str, Any]:
    """Return the headline, the bars and the facts of one device; for a decoder, of both prompt and token.

    Args:
        case: the plan with its workload.
        cost: cost of an inference, or of a decoder's prompt, on the device.
    """
    token = case.rivals[-1].token(case.device)
    facts = _facts(cost) if token is None else decoder_facts(cost, token, case.plan, case.workload)
    each = " per inference" if token is None else ""
    phases = {"": cost} if token is None else {", the prompt": cost, ", a token": token}
    return {
        "headline": f"{cost.device}, predicted: {expected(cost, token, case.workload)}{each}",
        "bars": [bar for phase, report in phases.items() for bar in _bars(report, phase)],
        "facts": [{"name": name, "value": value} for name, value in facts],
    }


def _bars(cost: CostReport, phase: str) -> list[dict[str, Any]]:
    by_kind: defaultdict[str, float] = defaultdict(float)
    for row in cost.operations:
        by_kind[_part(row.cost.name)] += row.cost.latency_bound_s
    waits = {name: share * cost.latency_bound_s for name, share in cost.bound_shares.items()}
    return [
        stacked_bar(f"What operations wait for{phase}", waits),
        stacked_bar(f"Time by operation{phase}", by_kind),
    ]


def _facts(cost: CostReport) -> list[tuple[str, str]]:
    return [
        ("latency", f"{band(cost)}: {trust(cost.confidence)}. As scheduled from the device file "
         f"{format_seconds(cost.latency_s)}; sum of operations {format_seconds(cost.latency_bound_s)}"),
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


def _part(operation: str) -> str:
    """Return which part of the model an operation belongs to."""
    name = operation.lower()
    if "embed" in name:
        return "embeddings"
    parts = {"scores": "attention products", "context": "attention products", "softmax": "softmax"}
    parts["activation"] = "activation function"  # GELU, or SiLU, which is priced as GELU is
    last = name.rsplit(".", 1)[-1]
    if last in parts:
        return parts[last]
    if last in ("add", "norm"):
        return "additions and norms"
    return "products with weights"
