"""A roofline: how much each product computes per byte of far memory, and how fast, under what the device allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hwmodels import format_bandwidth

from .style import COLOURS, MARKERS, plain, tidy

if TYPE_CHECKING:
    from hwmodels import CostReport, Device

BOUNDS = ("compute", "unpack", "near memory", "dram", "launch")


def draw(report: CostReport, device: Device) -> Figure:
    """Draw every product of an inference (Williams et al. 2009).

    Across: operations (two per multiply-accumulate) per byte from far memory; a product that moves none stands at the
    right edge. Up: operations per second over its separate time, launch and unpacking included. The roofs are each
    unit's dense peak per type that the report uses, and the far memory's derated bandwidth.

    Args:
        report: of one inference.
        device: the device it is of; its peak rates and bandwidths are the roofs.
    """
    figure = Figure(figsize=(8.5, 5.5), layout="constrained")
    axes = figure.subplots()
    products = [row.cost for row in report.operations if row.cost.macs]
    known = [2 * cost.macs / cost.dram_bytes for cost in products if cost.dram_bytes]
    peaks = _peaks(report, device)
    far = device.far_memory
    bandwidth = far.read_bytes_per_s * far.efficiency * far.contention
    low = min([0.5, *(value / 2 for value in known)])
    edge = 4 * max([*known, *(peak / bandwidth for peak in peaks.values())])
    for label, peak in peaks.items():
        axes.plot([low, peak / bandwidth, edge], [low * bandwidth, peak, peak], color="#888888", lw=1)
        axes.text(low * 1.1, peak * 1.06, label, fontsize=8, color="#444444")
    for bound, marker, colour in zip(BOUNDS, MARKERS, COLOURS, strict=False):
        costs = [cost for cost in products if cost.bound == bound]
        across = [2 * cost.macs / cost.dram_bytes if cost.dram_bytes else edge for cost in costs]
        up = [2 * cost.macs / cost.latency_bound_s for cost in costs]
        if costs:
            axes.scatter(
                across, up, marker=marker, c=colour, s=28, alpha=0.75, label=f"{bound} ({len(costs)})", zorder=3
            )
    _finish(axes, device, format_bandwidth(bandwidth), (low, edge * 1.3))
    return figure


def _peaks(report: CostReport, device: Device) -> dict[str, float]:
    """Return operations per second of each unit and type that runs a product of the report."""
    used = {row.cost.unit for row in report.operations if row.cost.macs}
    return {
        f"{unit.id} {rate.type}": 2 * rate.per_cycle * unit.cores * unit.clock_hz
        for unit in device.units
        for rate in unit.rates
        if unit.id in used and rate.op == "gemm"
    }


def _finish(axes: Axes, device: Device, bandwidth: str, span: tuple[float, float]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*span)
    axes.set_xlabel(f"operations per byte of {device.far_memory.id} ({bandwidth}); right edge: none moved")
    axes.set_ylabel("operations per second")
    axes.set_title(f"{plain(device.name)}: products by what they wait for", fontsize=11)
    axes.legend(title="bound by", fontsize=8, title_fontsize=8, loc="lower right")
    tidy(axes)
