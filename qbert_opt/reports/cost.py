"""What a plan costs on a device, compared with other plans, and the sources of a device file's figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from rich.table import Table

from hwmodels import format_bandwidth, format_bytes, format_joules, format_seconds, format_watts

from ..costs.functions import KINDS
from .printing import TextTable

if TYPE_CHECKING:
    from hwmodels import CostReport, Device


def band(cost: CostReport) -> str:
    """Return the latency to expect: a figure with its interval if the device is calibrated, else only a band.

    Args:
        cost: predicted cost on a device.
    """
    low, high = (format_seconds(end) for end in cost.latency_interval_s)
    return (
        f"{format_seconds(cost.latency_s)} ({low} to {high})" if cost.confidence == "calibrated" else f"{low} to {high}"
    )


def cost_lines(report: CostReport) -> list[str]:
    """Return what a plan costs on a device, one fact per line.

    Args:
        report: cost of one inference.
    """
    shares = sorted(report.bound_shares.items(), key=lambda item: -item[1])
    on_chip, room = format_bytes(report.scratchpad_bytes), format_bytes(report.scratchpad_room_bytes)
    bounds = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares)
    facts = {
        "latency": f"{band(report)}; as scheduled {format_seconds(report.latency_s)}, sum of operations "
        f"{format_seconds(report.latency_bound_s)}; bound by {bounds}",
        "peak memory": f"{format_bytes(report.peak_memory_bytes)} (weights {format_bytes(report.weight_bytes)}, "
        f"activations {format_bytes(report.peak_activation_bytes)}); {on_chip} of weights on chip, room for {room}",
        "DRAM traffic": f"{format_bytes(report.dram_bytes)} per inference, "
        f"{format_bandwidth(report.dram_bandwidth_bytes_per_s)} at {report.inferences_per_s:.1f} inferences/s",
        "energy": f"{format_joules(report.energy_j)} per inference ({format_joules(report.dynamic_energy_j)} dynamic)",
        "unpacking": f"costs {format_seconds(report.unpack_s)} of compute, saves {format_seconds(report.dram_saved_s)} "
        f"of DRAM time against streamed 8-bit storage{_verdict(report)}",
        "trust": trust_line(report),
    }
    lines = [f"on {report.device}, predicted:", *(f"  {name:13} {text}" for name, text in facts.items())]
    lines += [f"  over limit    {line}" for line in report.over_limits]
    return lines + [f"  note          {note}" for note in report.notes]


def trust_line(report: CostReport) -> str:
    """Return a line that says how far the figures can be trusted.

    Args:
        report: cost of one inference.
    """
    trust = {
        "theoretical": "nothing was measured on this device: the figures rank plans, they do not promise milliseconds",
        "partly-measured": "some figures were measured on this device: latency is an estimate",
        "calibrated": "measured on this device",
    }[report.confidence]
    return f"{report.sourced_figures} of {report.all_figures} figures of the device file have a source; {trust}"


def _verdict(report: CostReport) -> str:
    return "; 8 bits may be faster here" if report.unpack_s > report.dram_saved_s else ""


UNITS: tuple[tuple[str, Callable[[float], str]], ...] = (
    ("*.size", format_bytes),
    ("*.read_bw*", format_bandwidth),
    ("*.write_bw*", format_bandwidth),
    ("*.latency", format_seconds),
    ("*.launch", format_seconds),
    ("memories.*.energy*", lambda value: f"{format_joules(value)}/bit"),
    ("*.energy_mac.*", lambda value: f"{format_joules(value)}/MAC"),
    ("*.energy_element*", lambda value: f"{format_joules(value)}/element"),
    ("*.clock", lambda value: f"{value / 1e9:g} GHz"),
    ("*.clocks.*", lambda value: f"{value / 1e9:g} GHz"),
    ("*.data_rate", lambda value: f"{value / 1e6:g} MT/s"),
    ("*.bus_bits", lambda value: f"{value:g} bit"),
    ("*.static", format_watts),
    ("*.tdp", format_watts),
    ("*.unpack_cycles_per_*", lambda value: f"{value:g} cycles"),
    ("*.per_cycle", lambda value: f"{value:g} /cycle"),
)
"""How a figure of a device file is formatted, by the pattern of its path; all others are counts or shares."""


def _with_unit(path: str, value: float) -> str:
    show = next((show for pattern, show in UNITS if fnmatchcase(path, pattern)), None)
    return f"{value:g}" if show is None else show(value)


def function_line(report: CostReport, functions: Mapping[str, str]) -> str:
    """Return a line that says how long nonlinear functions take, where, and how they are computed.

    Args:
        report: cost of one inference.
        functions: way of computing each function; empty if the device's own rates are used.
    """
    parts = []
    for kind, function in KINDS.items():
        rows = [row.cost for row in report.operations if row.cost.format == kind]
        if rows:
            units = ", ".join(dict.fromkeys(row.unit for row in rows))
            how = f" by {functions[function]}" if functions else ""
            parts.append(f"{kind}{how} {format_seconds(sum(row.latency_bound_s for row in rows))} on {units}")
    return f"  functions     {'; '.join(parts)}"


def comparison_table(reports: Mapping[str, CostReport | str], each: str = "inference") -> Table:
    """Return predicted costs side by side.

    Args:
        reports: costs by name, in the order of the rows; a text says why the device cannot run this model.
        each: what a report covers: an inference, or a decoder's prompt or token.
    """
    table = TextTable("", "latency", "peak memory", "weights", f"DRAM / {each}", "energy", "unpacking")
    for name, report in reports.items():
        if isinstance(report, str):
            table.add_row(name, report)
            continue
        table.add_row(
            name,
            format_seconds(report.latency_s),
            format_bytes(report.peak_memory_bytes),
            format_bytes(report.weight_bytes),
            format_bytes(report.dram_bytes),
            format_joules(report.energy_j),
            format_seconds(report.unpack_s),
        )
    return table


def device_table(device: Device) -> list[str | Table]:
    """Return a device's engines, every figure of its file with its source, and how many figures have a source.

    Args:
        device: the device, with its provenance.
    """
    from hwmodels import figures

    table = TextTable("figure", "value", "kind", "source")
    all_figures = figures(device)
    for figure in all_figures:
        origin = figure.provenance
        kind, source = ("unknown", "") if origin is None else (origin.kind, origin.source)
        table.add_row(figure.path, _with_unit(figure.path, figure.value), kind, source)
    sourced = sum(figure.is_sourced for figure in all_figures)
    facts = [f"{device.id}: {device.name}"]
    if device.engines is not None:
        facts.append(f"engines: {', '.join(device.engines) or 'none that qbert-opt knows'}")
    return [*facts, f"{sourced} of {len(all_figures)} figures have a source", table]
