"""What each operation of a simulated inference costs: a table for people, CSV and JSON for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rich.table import Table

from hwmodels import REMEDIES, format_bandwidth, format_bytes, format_joules, format_seconds, format_watts

from ..errors import UsageError
from ..runtime.plain_text import to_csv
from .printing import TextTable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hwmodels import CostReport, MixReport

FORMS = ("table", "csv", "json")
Row = dict[str, str | int | float | bool]


def operation_rows(report: CostReport) -> list[Row]:
    """Return one row per operation in the order of execution; times in seconds, as in `OperationCost`.

    Args:
        report: of one inference.
    """
    return [
        {
            "name": row.cost.name,
            "unit": row.cost.unit,
            "format": row.cost.format,
            "start_s": row.start_s,
            "finish_s": row.finish_s,
            "latency_bound_s": row.cost.latency_bound_s,
            "launch_s": row.cost.launch_s,
            "compute_s": row.cost.compute_s,
            "unpack_s": row.cost.unpack_s,
            "near_s": row.cost.near_s,
            "dram_s": row.cost.dram_s,
            "prefetched_s": row.prefetched_s,
            "fused": row.fused,
            "dram_bytes": row.cost.dram_bytes,
            "weight_bytes": row.cost.weight_bytes,
            "macs": row.cost.macs,
            "energy_j": row.cost.dynamic_energy_j,
            "bound": row.cost.bound,
            "helps": REMEDIES[row.cost.bound],
        }
        for row in report.operations
    ]


def operations_text(report: CostReport, form: str) -> str | list[str | Table]:
    """Return all operations as CSV or JSON text, or as lines and a table to print.

    Args:
        report: of one inference.
        form: `table`, `csv` or `json`.

    Raises:
        UsageError: another form.
    """
    if form not in FORMS:
        raise UsageError(f"--per-op {form}: unknown form. Legal: {', '.join(FORMS)}.")
    rows = operation_rows(report)
    if form == "json":
        return json.dumps(rows, indent=1)
    if form == "csv":
        return to_csv(list(rows[0]), [list(row.values()) for row in rows]).rstrip("\n")
    return [_table(rows), *_remedies(rows)]


def _table(rows: list[Row]) -> Table:
    table = TextTable()
    table.add_column("operation", overflow="fold")
    table.add_column("runs as", no_wrap=True)
    for column in ("start", "takes", "launch", "compute", "unpack", "DRAM", "DRAM bytes"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("bound by", no_wrap=True)
    for row in rows:
        table.add_row(
            str(row["name"]),
            f"{row['unit']} {row['format']}",
            format_seconds(float(row["start_s"])),
            format_seconds(float(row["finish_s"]) - float(row["start_s"])),
            *(format_seconds(float(row[f"{part}_s"])) for part in ("launch", "compute", "unpack", "dram")),
            format_bytes(float(row["dram_bytes"])),
            str(row["bound"]) + (" (fused)" if row["fused"] else ""),
        )
    return table


def _remedies(rows: list[Row]) -> list[str]:
    """Return for each bound its share of the time and what would help."""
    whole = sum(float(row["latency_bound_s"]) for row in rows)
    lines = []
    for bound in dict.fromkeys(str(row["bound"]) for row in rows):
        waiting = [row for row in rows if row["bound"] == bound]
        share = sum(float(row["latency_bound_s"]) for row in waiting) / whole
        lines.append(
            f"{bound}: {len(waiting)} operations, {100 * share:.0f} % of the time; what helps: {REMEDIES[bound]}"
        )
    return lines


def mix_lines(mix: MixReport, lengths: Mapping[int, float]) -> list[str | Table]:
    """Return what inferences cost over a histogram of lengths: for each length, and for all together.

    Args:
        mix: one report for each length.
        lengths: tokens -> frequency, in the order of the reports.
    """
    table = TextTable()
    for column in ("tokens", "share", "latency", "DRAM bytes", "energy", "peak memory", "bound by"):
        table.add_column(column, justify="right" if column != "bound by" else "left", no_wrap=True)
    for tokens, share, report in zip(sorted(lengths), mix.shares, mix.reports, strict=True):
        table.add_row(
            str(tokens),
            f"{100 * share:.1f} %",
            format_seconds(report.latency_s),
            format_bytes(report.dram_bytes),
            format_joules(report.energy_j),
            format_bytes(report.peak_memory_bytes),
            max(report.bound_shares, key=lambda name: report.bound_shares[name]),
        )
    over = dict.fromkeys(line for report in mix.reports for line in report.over_limits)
    return [
        table,
        f"  latency       {format_seconds(mix.mean_latency_s)} on average, {format_seconds(mix.tail_latency_s)} for "
        f"95 %, {format_seconds(mix.worst_latency_s)} at worst",
        f"  DRAM traffic  {format_bytes(mix.mean_dram_bytes)} on average, "
        f"{format_bandwidth(mix.dram_bandwidth_bytes_per_s)} at {mix.inferences_per_s:.1f} inferences/s",
        f"  energy        {format_joules(mix.mean_energy_j)} on average, {format_watts(mix.average_power_w)}",
        f"  peak memory   {format_bytes(mix.peak_memory_bytes)}",
        *(f"  over limit    {line}" for line in over),
    ]
