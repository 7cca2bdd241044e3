"""Nouns to text that a person reads. Units are put on here and nowhere before."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from hwmodels.units import format_bandwidth, format_bytes, format_joules, format_seconds

from ..allocation import Allocation, PlannedMatrix
from ..limits import shown
from ..profiles import ModelProfile
from ..scores import Provenance, ScoreTable

if TYPE_CHECKING:
    from hwmodels.device import Device
    from hwmodels.simulate import CostReport

    from ..evaluation import Evaluation, Interval
    from ..packing.written import WrittenModel

TITLES = {
    "query": "query",
    "key": "key",
    "value": "value",
    "query_key_value": "q, k, v",
    "position": "positions",
    "attention_output": "att. out",
    "intermediate": "ffn in",
    "output": "ffn out",
}
QUALITIES = {
    "classes": (("accuracy", "accuracy [95 %]"), ("macro_f1", "F1")),
    "tags": (("entity_f1", "entity F1 [95 %]"), ("accuracy", "words [95 %]")),
    "spans": (("exact_match", "EM [95 %]"), ("answer_f1", "F1 [95 %]")),
    "vocabulary": (("accuracy", "masks filled [95 %]"),),
    "regression": (("correlation", "correlation"),),
    "embeddings": (),
}
MEASURES = {
    "encoder_bytes": "encoder bytes",
    "total_bytes": "bytes of the whole model",
    "peak_memory_bytes": "peak memory",
    "dram_bytes": "DRAM bytes per inference",
    "bandwidth_bytes_per_s": "DRAM bandwidth",
    "latency_s": "latency",
    "energy_j": "energy per inference",
    "bops": "bit operations",
    "predicted_loss": "predicted loss",
    "latency_bound_s": "sum of the operations' latencies",
    "energy_bound_j": "energy at that latency",
}
WIDTH = 132


def scores_summary(table: ScoreTable) -> str:
    """One line that says what a table of scores is of, and where it comes from."""
    return (
        f"{len(table.profile.matrices)} matrices × {len(table.choices)} choices of {table.profile.name} "
        f"({table.profile.architecture}, sha256 {table.profile.sha256[:12]}…), {_origin(table, table.provenance)}"
    )


def memory_line(peak_bytes: int, limit_bytes: int, processes: int) -> str:
    """One line that says what a run held above the model, and whether that kept its limit."""
    kept = "within" if peak_bytes <= limit_bytes else "ABOVE"
    each = f" in each of {processes} processes" if processes > 1 else ""
    limit = f"{kept} --memory-limit {limit_bytes / 2**20:,.0f} MiB"
    return f"peak memory{each} {peak_bytes / 2**20:,.0f} MiB above the model, {limit}"


def print_plan(plan: Allocation, report: CostReport | None) -> None:
    """Print a plan and, with a device, its predicted cost."""
    console = Console(width=WIDTH, highlight=False, soft_wrap=True)
    console.print(f"[bold]{plan.profile.name}[/bold] ({plan.profile.architecture}, {_layers(plan.profile)})")
    console.print(f"scores: {_origin(plan, plan.provenance)}\n")
    console.print(plan_table(plan.matrices))
    console.print("bits and grouping: r = row groups, c = inputs per column group; * stays on chip\n")
    for lines in (_table_lines, _activation_lines, _size_lines, _loss_lines, _limit_lines):
        for line in lines(plan):
            console.print(line)
    if report is not None:
        console.print()
        for line in cost_lines(report):
            console.print(line)


def _layers(profile: ModelProfile) -> str:
    if profile.num_layers == profile.num_blocks:
        return f"{profile.num_blocks} layers"
    return f"{profile.num_layers} layers that share the weights of {profile.num_blocks}"


def plan_table(matrices: Sequence[PlannedMatrix]) -> Table:
    """Encoder layers by matrices: bits and grouping of each."""
    table = Table(box=None, pad_edge=False)
    kinds = list(dict.fromkeys(m.kind for m in matrices))
    places = [(m.block, m.kind) for m in matrices]
    plain = all(kind in TITLES for kind in kinds) and len(set(places)) == len(places)
    table.add_column("layer", justify="right")
    if not plain:
        table.add_column("matrix")
        table.add_column("choice")
        for m in matrices:
            table.add_row(str(m.block + 1), m.module, _cell(m))
        return table
    for kind in kinds:
        table.add_column(TITLES[kind])
    for block in sorted({m.block for m in matrices}):
        cells = {m.kind: _cell(m) for m in matrices if m.block == block}
        table.add_row(str(block + 1), *(cells.get(kind, "") for kind in kinds))
    return table


def cost_lines(report: CostReport) -> list[str]:
    """What a plan costs on a device, one fact a line."""
    shares = sorted(report.bound_shares.items(), key=lambda item: -item[1])
    low, high = report.latency_interval_s
    trust = {
        "theoretical": "no measurement of this device went in: it ranks plans, it does not promise milliseconds",
        "partly-measured": "some figures were measured on this device: latency is an estimate",
        "calibrated": "measured on this device",
    }[report.confidence]
    on_chip, room = format_bytes(report.scratchpad_bytes), format_bytes(report.scratchpad_room_bytes)
    bounds = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares)
    facts = {
        "latency": f"{format_seconds(report.latency_s)} (sum of operations {format_seconds(report.latency_bound_s)}); "
        f"bound by {bounds}",
        "peak memory": f"{format_bytes(report.peak_memory_bytes)} (weights {format_bytes(report.weight_bytes)}, "
        f"activations {format_bytes(report.peak_activation_bytes)}); {on_chip} of weights on chip, room for {room}",
        "DRAM traffic": f"{format_bytes(report.dram_bytes)} per inference, "
        f"{format_bandwidth(report.dram_bandwidth_bytes_per_s)} at {report.inferences_per_s:.1f} inferences/s",
        "energy": f"{format_joules(report.energy_j)} per inference ({format_joules(report.dynamic_energy_j)} dynamic)",
        "unpacking": f"costs {format_seconds(report.unpack_s)} of compute, saves {format_seconds(report.dram_saved_s)} "
        f"of DRAM time against streamed 8-bit storage{_verdict(report)}",
        "trust": f"{report.sourced_figures} of {report.all_figures} figures of the device file have a source; {trust}; "
        f"expect {format_seconds(low)} to {format_seconds(high)} if measured",
    }
    lines = [f"on {report.device}, predicted:", *(f"  {name:13} {text}" for name, text in facts.items())]
    lines += [f"  over limit    {line}" for line in report.over_limits]
    return lines + [f"  note          {note}" for note in report.notes]


def evaluation_table(rows: Sequence[tuple[str, Evaluation, str, str]], title: str) -> Table:
    """Measured quality, one row per model: name, evaluation, bytes on disk, predicted loss."""
    table = Table(title=title, box=None, pad_edge=False, title_justify="left")
    kind = rows[0][1].kind
    qualities = QUALITIES[kind]
    loss = "KL to reference, nats [95 %]" if "KL" in rows[0][1].loss_unit else "distance to reference [95 %]"
    flips = ["flipped"] if "KL" in rows[0][1].loss_unit else []
    for column in ("model", *(title for _, title in qualities), loss, "predicted", *flips, "on disk"):
        # a long folder name is folded, so that no figure is ever cut
        table.add_column(column, no_wrap=column != "model", overflow="fold")
    for name, found, size, predicted in rows:
        table.add_row(
            name,
            *(_quality(getattr(found, field)) for field, _ in qualities),
            "-" if found.loss is None else _interval(found.loss, 1, ".3g"),
            predicted,
            *([_flipped(found)] if flips else []),
            size,
        )
    return table


def _quality(figure: Interval | float | None) -> str:
    if figure is None:
        return "-"
    return f"{100 * figure:.2f}" if isinstance(figure, float) else _interval(figure, 100, ".2f")


def _flipped(found: Evaluation) -> str:
    if found.flipped is None:
        return "-"
    return f"{found.flipped} ({found.lost or 0} lost, {found.won or 0} won)"


def _interval(found: Interval, factor: float, form: str) -> str:
    return f"{factor * found.value:{form}} [{factor * found.low:{form}}, {factor * found.high:{form}}]"


def _origin(source: ScoreTable | Allocation, p: Provenance) -> str:
    accuracy = "" if p.scored_accuracy is None else f", accuracy there {100 * p.scored_accuracy:.1f} %"
    return (
        f"metric {source.metric}, method {source.method}, data {p.data} ({p.num_calibration} texts to fit, "
        f"{p.num_scored} to score, {p.mean_tokens:.1f} tokens each{accuracy}), commit {p.commit}, {p.date}"
    )


def _cell(m: PlannedMatrix) -> str:
    size = f"c{m.group_size}" if m.axis == "columns" else f"r{m.num_groups}"
    return f"{m.bits} {size}{'*' if m.residency == 'resident' else ''}"


def _size_lines(plan: Allocation) -> list[str]:
    metadata = sum(m.bytes - m.choice.code_bytes(m.rows, m.columns) for m in plan.matrices)
    float_bytes = 4 * plan.profile.encoder_elements
    tables = sum(table.bytes for table in plan.tables)
    rest = plan.profile.other_bytes
    widths = {(table.bits, table.grouping) for table in plan.tables}
    uniform = f"at {next(iter(widths))[0]} bits" if len(widths) == 1 else "see above"
    return [
        f"encoder matrices {_both(plan.encoder_bytes)}, {plan.average_bits:.3f} bits per weight with "
        f"{format_bytes(metadata)} of scales and offsets; {float_bytes / plan.encoder_bytes:.1f}x smaller than float32",
        f"whole model      {_both(plan.total_bytes)}: embedding tables {format_bytes(tables)} {uniform}, "
        f"everything else {format_bytes(rest)} in fp16",
    ]


def _loss_lines(plan: Allocation) -> list[str]:
    proof = plan.status if plan.gap is None else f"{plan.status}, proven gap {plan.gap:.1e}"
    if plan.objective != "predicted_loss":
        bound = "" if plan.lower_bound is None else f", at least {shown(plan.objective, plan.lower_bound)}"
        proof += f" of the least {MEASURES[plan.objective]}{bound}"
    lines = [
        *_prediction_lines(plan),
        f"                 ({plan.contains}; {_included(plan)})",
        f"status           {proof} ({plan.solver})",
    ]
    for index, uniform in enumerate(plan.uniform):
        name = "best uniform    " if index == 0 else "                "
        lines.append(
            f"{name} {uniform.choice}: {uniform.predicted_loss:.4g} at {format_bytes(uniform.encoder_bytes)}"
            f"{_ratio(uniform.predicted_loss, plan.expected_loss) if plan.objective == 'predicted_loss' else ''}"
        )
    if plan.random_loss is not None:
        ratio = _ratio(plan.random_loss, plan.expected_loss)
        lines.append(f"random plans     {plan.random_loss:.4g} in the median, filling the same limits{ratio}")
    return lines


def _prediction_lines(plan: Allocation) -> list[str]:
    """The loss to expect, and beside it the sum that was minimized."""
    if plan.cross_fitted is None:
        line = f"predicted loss   {plan.predicted_loss:.4g} ± {plan.predicted_std_error:.1g} {plan.loss_unit}"
        by_rule = plan.status == "unproven"
        return [line] if by_rule else [line, "                 (sum of the scores that chose the plan: optimistic)"]
    found = plan.cross_fitted
    return [
        f"predicted loss   {found.loss:.4g} ± {found.std_error:.1g} {plan.loss_unit}",
        f"                 (on text that did not choose the plan; the minimized sum of scores is "
        f"{plan.predicted_loss:.4g})",
    ]


def _included(plan: Allocation) -> str:
    missing = " and ".join(part for part in ("tables", "activations") if part not in plan.roundings)
    return f"rounding of {missing} not included" if missing else "tables and activations included"


def rounded_inputs(plan: Allocation) -> str:
    """How the inputs of matrices are rounded, and what that costs together; empty where they are not."""
    if not plan.activations:
        return ""
    forms = Counter(
        f"{item.bits} bits {'per token' if item.range is None else f'per tensor ({item.range})'}"
        for item in plan.activations
    )
    shown = ", ".join(f"{count} in {form}" for form, count in forms.most_common())
    loss = math.fsum(item.predicted_loss for item in plan.activations)
    return f"{len(plan.activations)} of matrices rounded: {shown}; predicted loss {loss:.2g}"


def _activation_lines(plan: Allocation) -> list[str]:
    return [f"inputs           {rounded_inputs(plan)}"] if plan.activations else []


def _table_lines(plan: Allocation) -> list[str]:
    """What the scored embedding tables got."""
    lines = []
    for table in plan.tables:
        if table.predicted_loss is not None and table.unseen_rows is not None:
            lines.append(
                f"table {table.module} ({table.rows} × {table.columns}): {table.bits} bits {table.grouping}, "
                f"{format_bytes(table.bytes)}, predicted loss {table.predicted_loss:.2g}; the scoring text read "
                f"{100 * (1 - table.unseen_rows):.1f} % of its rows"
            )
    return lines


def _limit_lines(plan: Allocation) -> list[str]:
    lines = []
    for limit in plan.limits:
        share = 100 * limit.used / limit.capacity if limit.capacity else math.nan
        mark = "  <- binds" if limit.binds else ""
        lines.append(
            f"limit            {limit.source}: {MEASURES[limit.resource]} {shown(limit.resource, limit.used)} of "
            f"{shown(limit.resource, limit.capacity)} ({share:.1f} %){mark}"
        )
    for more, gain in (("one more MB     ", plan.next_mb_gain), ("one more ms     ", plan.next_ms_gain)):
        if gain is not None:
            share = 100 * gain / plan.predicted_loss if plan.predicted_loss else 0.0
            lines.append(f"{more} lowers the predicted loss by {gain:.3g} ({share:.1f} %)")
    return lines


def _both(size_bytes: int) -> str:
    return f"{size_bytes:,} bytes = {size_bytes / 1e6:.2f} MB = {size_bytes / 2**20:.2f} MiB"


def _ratio(other: float, ours: float) -> str:
    return f" ({other / ours:.1f}x ours)" if ours > 0 and other > 0 else ""


def _verdict(report: CostReport) -> str:
    return "; 8 bits may be faster here" if report.unpack_s > report.dram_saved_s else ""


def print_lines(lines: Sequence[str | Table]) -> None:
    """Print lines and tables to stdout."""
    console = Console(width=WIDTH, highlight=False, soft_wrap=True)
    for line in lines:
        console.print(line)


def comparison_table(reports: Mapping[str, CostReport | str]) -> Table:
    """Predicted costs side by side; a text stands for a model that the device cannot run."""
    table = Table(box=None, pad_edge=False)
    for column in ("", "latency", "peak memory", "weights", "DRAM / inference", "energy", "unpacking"):
        table.add_column(column)
    for name, found in reports.items():
        if isinstance(found, str):
            table.add_row(name, found)
            continue
        table.add_row(
            name,
            format_seconds(found.latency_s),
            format_bytes(found.peak_memory_bytes),
            format_bytes(found.weight_bytes),
            format_bytes(found.dram_bytes),
            format_joules(found.energy_j),
            format_seconds(found.unpack_s),
        )
    return table


def written_lines(written: WrittenModel, plan: Allocation) -> list[str]:
    """What is on disk beside what was planned."""
    lines = [
        f"{written.folder}: encoder matrices {written.encoder_bytes:,} bytes (planned {plan.encoder_bytes:,}), "
        f"all tensors {written.tensor_bytes:,} bytes (planned {plan.total_bytes:,})",
        f"file header {written.header_bytes:,} bytes more: it says where each tensor lies",
    ]
    if (found := written.read_back) is not None:
        lines.append(
            f"read back        bytes and hashes agree; measured loss {found.loss:.4g} {found.loss_unit} on "
            f"{found.num_texts} texts of {found.data}, predicted {plan.predicted_loss:.4g}"
        )
    return lines


def device_table(device: Device) -> list[str | Table]:
    """Every figure of a device file with its source, and the share that has one."""
    from hwmodels.provenance import figures

    table = Table(box=None, pad_edge=False)
    for column in ("figure", "SI value", "kind", "source"):
        table.add_column(column)
    found = figures(device)
    for figure in found:
        origin = figure.provenance
        kind, source = ("unknown", "") if origin is None else (origin.kind, origin.source)
        table.add_row(figure.path, f"{figure.value:g}", kind, source)
    sourced = sum(figure.is_sourced for figure in found)
    return [f"{device.id}: {device.name}", f"{sourced} of {len(found)} figures have a source", table]
