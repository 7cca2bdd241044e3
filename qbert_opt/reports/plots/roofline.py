"""A roofline in two panels: products that stream from far memory, and products whose operands are all on chip."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from hwmodels import format_bandwidth, format_seconds

from .style import COLOURS, MARKERS, plain, tidy

if TYPE_CHECKING:
    from hwmodels import CostReport, Device, OperationCost

BOUNDS = ("compute", "unpack", "near memory", "dram", "launch")
SIZE, MORE = 26.0, 7.0  # area of a mark, and by how much each product that coincides with it enlarges it


def draw(report: CostReport, device: Device) -> Figure:
    """Draw every product of an inference (Williams et al. 2009).

    Vertical axis: operations per second (two per multiply-accumulate) in the time of the product alone, including
    launch and unpacking. Left panel: products that stream, over their operations per byte of far memory; the roofs are
    its derated bandwidth and each unit's dense peak per type. Right panel: products that move nothing from or to far
    memory, over their number of operations; the roofs are the same peaks and the unit's launch. Coinciding products are
    one larger mark.

    Args:
        report: cost of one inference.
        device: the device of the report; its peak rates and bandwidths are the roofs.
    """
    products = [row.cost for row in report.operations if row.cost.macs]
    streaming = [cost for cost in products if cost.dram_bytes]
    resident = [cost for cost in products if not cost.dram_bytes]
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    peaks = _peaks(report, device)
    far = device.far_memory
    bandwidth = far.read_bytes_per_s * far.efficiency * far.contention
    _roofs(left, peaks, bandwidth, [2 * cost.macs / cost.dram_bytes for cost in streaming])
    _marks(left, streaming, [2 * cost.macs / cost.dram_bytes for cost in streaming])
    _finish(
        left, f"stream from {far.id}", f"operations per byte of {far.id} ({format_bandwidth(bandwidth)})", streaming
    )
    launch_s = max((cost.launch_s for cost in resident), default=0.0)
    _roofs(right, peaks, 1 / launch_s if launch_s else None, [2 * cost.macs for cost in resident])
    _marks(right, resident, [2 * cost.macs for cost in resident])
    launch = f"; slope: launch {format_seconds(launch_s)}" if launch_s else ""
    _finish(right, "on chip: nothing from far memory", f"operations of the product{launch}", resident)
    left.set_ylabel("operations per second")
    figure.suptitle(f"{plain(device.name)}: products by what they wait for", fontsize=11)
    _legend(figure, products)
    return figure


def _peaks(report: CostReport, device: Device) -> dict[str, float]:
    """Return the peak operations per second of each unit and type that runs a product of the report."""
    used = {row.cost.unit for row in report.operations if row.cost.macs}
    return {
        f"{unit.id} {rate.type}": 2 * rate.per_cycle * unit.cores * unit.clock_hz
        for unit in device.units
        for rate in unit.rates
        if unit.id in used and rate.op == "gemm"
    }


def _roofs(axes: Axes, peaks: Mapping[str, float], slope: float | None, across: Sequence[float]) -> None:
    """Draw the peaks, and the line that rises to them: bandwidth, or 1 / launch."""
    corners = [] if slope is None else [peak / slope for peak in peaks.values()]
    known = [*across, *corners] or [1.0]
    low, high = min(known) / 3, max(known) * 3
    for label, peak in peaks.items():
        start = low if slope is None else min(low, peak / slope)
        bend = start if slope is None else peak / slope
        rise = peak if slope is None else start * slope
        axes.plot([start, bend, high], [rise, peak, peak], color="#888888", lw=1)
        axes.annotate(
            label, (high, peak), xytext=(-2, 3), textcoords="offset points", fontsize=8, color="#444444", ha="right"
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_minor_formatter(NullFormatter())  # on a short axis they would run into each other


def _marks(axes: Axes, costs: Sequence[OperationCost], across: Sequence[float]) -> None:
    for bound, marker, colour in zip(BOUNDS, MARKERS, COLOURS, strict=False):
        places = Counter(
            (x, 2 * cost.macs / cost.latency_bound_s)
            for cost, x in zip(costs, across, strict=True)
            if cost.bound == bound
        )
        if places:
            axes.scatter(
                [x for x, _ in places],
                [y for _, y in places],
                marker=marker,
                c=colour,
                s=[SIZE + MORE * (count - 1) for count in places.values()],
                alpha=0.7,
                zorder=3,
            )


def _finish(axes: Axes, title: str, xlabel: str, costs: Sequence[OperationCost]) -> None:
    axes.set_title(f"{title} ({len(costs)} products)", fontsize=10)
    axes.set_xlabel(xlabel)
    if not costs:
        axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", color="#444444")
    tidy(axes)


def _legend(figure: Figure, products: Sequence[OperationCost]) -> None:
    """Name the bounds below both panels, with the number of products that each one limits."""
    from matplotlib.lines import Line2D

    counts = Counter(cost.bound for cost in products)
    handles = [
        Line2D([], [], ls="", marker=marker, color=colour, alpha=0.7, label=f"{bound} ({counts[bound]})")
        for bound, marker, colour in zip(BOUNDS, MARKERS, COLOURS, strict=False)
        if counts[bound]
    ]
    figure.legend(
        handles=handles, title="bound by (products); larger marks: several alike", fontsize=8, title_fontsize=8,
        loc="outside lower center", ncols=len(handles) or 1,
    )  # fmt: skip
