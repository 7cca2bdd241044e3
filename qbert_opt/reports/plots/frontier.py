"""Pareto frontiers: predicted loss over bytes, latency, energy, DRAM traffic or bit operations, one curve for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...planning.constraints import RESOURCES
from ...planning.frontier import TradeOff
from ...workflows.frontiers import Curve, Mark
from .names import name_points
from .style import COLOURS, MARKERS, plain, tidy

# resource: (axis label, units per axis unit)
AXES = {
    "bytes": ("encoder, MB", 1e6),
    "latency": ("latency of one inference, ms (sum of operations)", 1e-3),
    "energy": ("energy of one inference, mJ (upper bound)", 1e-3),
    "dram": ("DRAM traffic of one inference, MB", 1e6),
    "bops": ("bit operations of one inference, 10⁹", 1e9),
}
STEPS_UP_TO = 4000  # points of one curve; longer curves are thinned, so that the file stays small
NAMED_UNIFORM = 4
LEAST_SHOWN = 0.9  # share of a loss that error bars may reach down, since a logarithmic axis has no zero


STYLES: dict[str, dict[str, Any]] = {
    "chosen": {"marker": "*", "markersize": 15, "color": "black", "linestyle": "none", "capsize": 3},
    "recipe": {"marker": "X", "markersize": 8, "color": "#666666", "linestyle": "none", "capsize": 2},
    "measured": {"marker": "o", "markersize": 6, "color": "black", "linestyle": "none", "capsize": 3, "mfc": "white"},
}


def draw(curves: Sequence[Curve], resource: str, marks: Sequence[Mark] = ()) -> Figure:
    """Draw loss over one resource.

    Each point of a curve is the cross-fitted predicted loss of the proven best plan within a budget, with one standard
    error; squares are uniform plans. The resource includes what is not searched (operations without a searched matrix),
    except for bytes, which are the encoder's. A broken line is a limit of the device: plans to the right of it do not
    fit.

    Args:
        curves: frontiers of the same resource; a frontier without any plan appears only in the legend.
        resource: a name in `RESOURCES`.
        marks: further plans to show; those without this resource are left out.
    """
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    tidy(axes)
    label, unit = AXES[resource]
    losses: list[float] = []
    for index, curve in enumerate(_merged(curves)):
        losses += _curve(axes, curve, resource, unit, index)
    for mark in marks:
        if resource in mark.usage:
            losses.append(mark.loss)
            error = None if mark.low is None or mark.high is None else [[mark.loss - mark.low], [mark.high - mark.loss]]
            axes.errorbar([mark.usage[resource] / unit], [mark.loss], yerr=error, label=plain(mark.label), zorder=5,
                          **STYLES[mark.kind])  # fmt: skip
    for trade_off in (curve.trade_off for curve in _merged(curves) if curve.trade_off is not None):
        for limit in (own for own in trade_off.own_limits if own.resource == RESOURCES[resource]):
            at = limit.capacity + (0.0 if resource == "bytes" else trade_off.fixed.get(limit.resource, 0.0))
            axes.axvline(at / unit, color="black", linestyle="--", linewidth=1, label=plain(limit.source))
    units = dict.fromkeys(curve.trade_off.loss_unit.split(" (")[0] for curve in curves if curve.trade_off is not None)
    axes.set_xlabel(label)
    axes.set_ylabel("predicted loss, " + plain("; ".join(units) or "no plan", 90), fontsize=8)
    if losses and min(losses) > 0:
        axes.set_yscale("log")
    if not losses:
        axes.text(0.5, 0.5, "no plan to show", transform=axes.transAxes, ha="center")
    axes.legend(frameon=False, fontsize=8)
    first = next(iter(_merged(curves)), None)
    if first is not None and first.trade_off is not None:
        best = _front(_uniform(first.trade_off, resource, unit))
        names = [(x, y, plain("/".join(choice.split("/")[:2]))) for x, y, choice in best]
        name_points(figure, axes, names, NAMED_UNIFORM)
    return figure


def total(trade_off: TradeOff, usage: dict[str, float], resource: str) -> float:
    """Return how much of a resource a point uses, including everything that is not searched.

    Args:
        trade_off: the frontier, which has the cost of everything that is not searched.
        usage: usage of the point, by the names of `RESOURCES`' values.
        resource: a name in `RESOURCES`.
    """
    if resource == "energy":
        static = trade_off.fixed.get("energy_bound_j")
        return usage["energy_bound_j"] + (trade_off.fixed["dynamic_energy_j"] if static is None else static)
    name = RESOURCES[resource]
    return usage[name] + (0.0 if resource == "bytes" else trade_off.fixed.get(name, 0.0))


def _curve(axes: Axes, curve: Curve, resource: str, unit: float, index: int) -> list[float]:
    colour = COLOURS[index % len(COLOURS)]
    if curve.trade_off is None or not curve.trade_off.points:
        reason = curve.reason or "no plan"
        axes.plot([], [], color=colour, linestyle=":", label=plain(f"{curve.label}: {reason}", 80))
        return []
    trade_off = curve.trade_off
    points = sorted(
        (total(trade_off, p.usage, resource) / unit, p.predicted_loss, p.predicted_std_error or 0.0)
        for p in trade_off.points
    )
    points = points[:: max(1, len(points) // STEPS_UP_TO)] if len(points) > STEPS_UP_TO else points
    xs, ys, errors = zip(*points, strict=True)
    if any(errors):
        _band(axes, xs, ys, errors, colour)
    marker = MARKERS[index % len(MARKERS)]
    axes.plot(
        xs, ys, color=colour, drawstyle="steps-post", marker=marker, markevery=max(1, len(xs) // 12), markersize=4,
        label=plain(f"{curve.label}: best plans for {len(trade_off.points)} budgets"), zorder=3,
    )  # fmt: skip
    uniform = _uniform(trade_off, resource, unit)
    if uniform:
        own = [u.predicted_std_error or 0.0 for u in trade_off.uniform]
        down = [min(error, LEAST_SHOWN * y) for (_, y, _), error in zip(uniform, own, strict=True)]
        axes.errorbar(
            [x for x, _, _ in uniform], [y for _, y, _ in uniform], yerr=[down, own] if any(own) else None, marker="s",
            linestyle="none", markersize=4, markerfacecolor="none", color=colour, alpha=0.8, elinewidth=0.8,
            label=plain(f"{curve.label}: one choice for all"),
        )  # fmt: skip
    return [*ys, *(y for _, y, _ in uniform)]


def _uniform(trade_off: TradeOff, resource: str, unit: float) -> list[tuple[float, float, str]]:
    """Return usage of the resource, loss and choice of the uniform plans."""
    return [(total(trade_off, u.usage, resource) / unit, u.predicted_loss, u.choice) for u in trade_off.uniform]


def _band(axes: Axes, xs: Sequence[float], ys: Sequence[float], errors: Sequence[float], colour: str) -> None:
    """Shade one standard error; on a logarithmic axis its lower end stays above zero."""
    low = [y - min(error, LEAST_SHOWN * y) for y, error in zip(ys, errors, strict=True)]
    high = [y + error for y, error in zip(ys, errors, strict=True)]
    axes.fill_between(xs, low, high, step="post", color=colour, alpha=0.15, linewidth=0)


def _merged(curves: Sequence[Curve]) -> list[Curve]:
    """Merge identical frontiers into one curve with all their names, because one would hide the others."""
    merged: list[Curve] = []
    for curve in curves:
        for index, other in enumerate(merged):
            if (
                curve.trade_off is not None
                and other.trade_off is not None
                and _key(curve.trade_off) == _key(other.trade_off)
            ):
                merged[index] = Curve(f"{other.label}, {curve.label}", other.trade_off)
                break
        else:
            merged.append(curve)
    return merged


def _key(trade_off: TradeOff) -> tuple[object, ...]:
    names = [RESOURCES[name] for name in trade_off.resources]
    points = tuple((*(p.usage[name] for name in names), p.predicted_loss) for p in trade_off.points)
    return (*(trade_off.fixed.get(name) for name in names), *points)


def _front(points: Sequence[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Return the points that no other point beats in both coordinates."""
    best: list[tuple[float, float, str]] = []
    for point in sorted(points):
        if not best or point[1] < best[-1][1]:
            best.append(point)
    return best
