"""Two budgets at once: which pairs of size and latency (or any two resources) have a plan, and its predicted loss."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from ...planning.frontier import TradeOff
from ...workflows.frontiers import Mark
from .frontier import AXES, total
from .style import plain, plain_numbers, tidy


def draw(trade_off: TradeOff, marks: Sequence[Mark] = ()) -> Figure:
    """Draw the plans of a frontier over two resources as dots, darker for less loss; squares are uniform plans.

    Args:
        trade_off: frontier over two resources.
        marks: further plans to show; those without both resources are left out.
    """
    first, second = trade_off.resources
    figure = Figure(figsize=(7.2, 5.0), layout="constrained")
    axes = figure.subplots()
    tidy(axes)
    (label_x, unit_x), (label_y, unit_y) = AXES[first], AXES[second]

    def place(usage: dict[str, float]) -> tuple[float, float]:
        return total(trade_off, usage, first) / unit_x, total(trade_off, usage, second) / unit_y

    dots = [(*place(p.usage), p.predicted_loss) for p in trade_off.points]
    squares = [(*place(u.usage), u.predicted_loss) for u in trade_off.uniform]
    losses = [loss for *_, loss in dots + squares]
    norm = LogNorm(min(losses), max(losses)) if losses and 0 < min(losses) < max(losses) else None
    image = None
    for points, marker, size, label in ((dots, "o", 42, "best plan"), (squares, "s", 26, "one choice for all")):
        if points:
            xs, ys, colours = zip(*points, strict=True)
            image = axes.scatter(xs, ys, c=colours, cmap="cividis", norm=norm, marker=marker, s=size, label=label,
                                 edgecolors="black", linewidths=0.5)  # fmt: skip
    for mark in marks:
        if {first, second} <= set(mark.usage):
            star = "*" if mark.kind == "chosen" else "X"
            axes.plot(mark.usage[first] / unit_x, mark.usage[second] / unit_y, star, color="#D55E00", markersize=14,
                      markeredgecolor="black", linestyle="none", label=plain(mark.label))  # fmt: skip
    axes.set_xlabel(label_x)
    axes.set_ylabel(label_y)
    axes.set_title(plain(trade_off.device or ""), fontsize=10)
    if image is None:
        axes.text(0.5, 0.5, "no plan to show", transform=axes.transAxes, ha="center")
        return figure
    bar = figure.colorbar(image, ax=axes, pad=0.01)
    bar.set_label("predicted loss, " + plain(trade_off.loss_unit.split(" (")[0], 80), fontsize=8)
    plain_numbers(bar.ax.yaxis)
    axes.legend(frameon=False, fontsize=8)
    return figure
