"""Places, sizes and texts of the charts in the HTML report, which its template draws as SVG."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from hwmodels import format_seconds

from ..planning.frontier import TradeOff
from ..planning.measured_points import MeasuredPoints
from ..planning.plan_grid import grid_of
from ..spec.allocation import Allocation
from .plan import TITLES

NAMED_CELLS = 600  # more matrices than that are shown by colour, with their names on touching them
MOST_TICKS = 40
MAX_POINTS = 1500


def heat_map(plan: Allocation) -> dict[str, Any]:
    """Place a cell for each matrix: layers down, matrices across, colour by bits.

    Args:
        plan: with up to 600 matrices each cell has a text of its own; above, names appear on touching.

    Returns:
        Sizes and places in SVG units, texts, and the share of the weights that each bit width has.
    """
    grid = grid_of(plan.matrices)
    named = len(plan.matrices) <= NAMED_CELLS
    width, height = 88, 22 if named else 4
    step = 1 if named else -(-len(grid.blocks) // MOST_TICKS)
    cells = []
    for index, m in enumerate(plan.matrices):
        row, column = grid.cells[index]
        size = f"c{m.group_size}" if m.axis == "columns" else f"r{m.num_groups}"
        kept = "*" if m.residency == "resident" else ""
        cells.append(
            {
                "x": 42 + column * width,
                "y": 20 + row * height,
                "bits": m.bits,
                "text": f"{m.bits} {size}{kept}",
                "title": f"{m.module}: {m.choice.name}, {m.bytes:,} bytes, predicted loss {m.predicted_loss:.3g}",
            }
        )
    weights: Counter[int] = Counter()
    for m in plan.matrices:
        weights[m.bits] += m.rows * m.columns
    return {
        "width": 46 + len(grid.columns) * width,
        "height": 24 + len(grid.blocks) * height,
        "cell_width": width,
        "cell_height": height,
        "gap": 2 if named else 0,
        "named": named,
        "columns": [
            {"x": 42 + (i + 0.5) * width, "text": grid.title(i, TITLES)[:14]} for i in range(len(grid.columns))
        ],
        "rows": [
            {"y": 20 + i * height + (15 if named else 8), "text": grid.blocks[i] + 1}
            for i in range(0, len(grid.blocks), step)
        ],
        "cells": cells,
        "shares": [
            {"bits": bits, "text": f"{100 * count / plan.profile.encoder_elements:.1f} % of the weights"}
            for bits, count in sorted(weights.items())
        ],
    }


def frontier_curve(plan: Allocation, found: TradeOff, measured: MeasuredPoints | None) -> dict[str, Any] | None:
    """Place predicted loss, on a logarithmic axis, over encoder bytes in MB.

    Args:
        plan: marked as the chosen one.
        found: at least one plan; more than 1,500 are thinned.
        measured: points to show beside; those without bytes are left out.

    Returns:
        Paths, ticks and marks in SVG units; None where no loss is above 0.
    """
    known = sorted(found.points, key=lambda p: p.usage["encoder_bytes"])
    known = known[:: max(1, len(known) // MAX_POINTS)]
    points = [(p.usage["encoder_bytes"] / 1e6, p.predicted_loss) for p in known]
    uniform = [(u.usage["encoder_bytes"] / 1e6, u.predicted_loss, u.choice) for u in found.uniform]
    shown_points = [] if measured is None else [p for p in measured.points if p.encoder_bytes is not None]
    own = (plan.encoder_bytes / 1e6, plan.predicted_loss)
    losses = [y for _, y in points] + [y for _, y, _ in uniform] + [p.loss for p in shown_points] + [own[1]]
    positive = [y for y in losses if y > 0]
    if not positive:
        return None
    sizes = [x for x, _ in points] + [x for x, _, _ in uniform] + [own[0]]
    low, high = math.log10(min(positive)), math.log10(max(positive))
    low, high = (low - 0.1, high + 0.1)
    left, right = min(sizes), max(sizes)
    left, right = left - 0.02 * (right - left or 1), right + 0.02 * (right - left or 1)

    def x(size: float) -> float:
        return round(70 + 580 * (size - left) / (right - left), 1)

    def y(loss: float) -> float:
        level = math.log10(loss) if loss > 0 else low
        return round(290 - 280 * (level - low) / (high - low), 1)

    path = [f"M {x(points[0][0])} {y(points[0][1])}"]
    path += [f"H {x(size)} V {y(loss)}" for size, loss in points[1:]]
    errors = [p.predicted_std_error or 0.0 for p in known]
    upper = [f"{x(size)},{y(loss + error)}" for (size, loss), error in zip(points, errors, strict=True)]
    lower = [f"{x(size)},{y(max(loss - error, loss / 10))}" for (size, loss), error in zip(points, errors, strict=True)]

    def whisker(size: float, loss: float, error: float | None) -> dict[str, float] | None:
        if not error:
            return None
        return {"x": x(size), "low": y(max(loss - error, loss / 10)), "high": y(loss + error)}

    whiskers = [
        whisker(u.usage["encoder_bytes"] / 1e6, u.predicted_loss, u.predicted_std_error) for u in found.uniform
    ] + [whisker(*own, plan.predicted_std_error)]
    step = 10 ** math.floor(math.log10((right - left) / 4))
    step = next(s for s in (step, 2 * step, 5 * step, 10 * step) if (right - left) / s <= 8)
    ticks = [i * step for i in range(math.ceil(left / step), math.floor(right / step) + 1)]
    return {
        "unit": found.loss_unit,
        "path": " ".join(path),
        "band": " ".join([*upper, *reversed(lower)]) if any(errors) else "",
        "whiskers": [bar for bar in whiskers if bar is not None],
        "x_ticks": [{"at": x(t), "text": f"{t:g}"} for t in ticks],
        "y_ticks": [{"at": y(10.0**e), "text": f"{10.0**e:g}"} for e in range(math.ceil(low), math.floor(high) + 1)],
        "uniform": [{"x": x(s), "y": y(loss), "title": f"{c}: {loss:.3g} at {s:.2f} MB"} for s, loss, c in uniform],
        "measured": [
            {"x": x((p.encoder_bytes or 0) / 1e6), "y": y(p.loss), "title": f"measured, {p.name}: {p.loss:.3g}"}
            for p in shown_points
        ],
        "chosen": {"x": x(own[0]), "y": y(own[1]), "title": f"this plan: {own[1]:.3g} at {own[0]:.2f} MB"},
    }


def stacked_bar(name: str, seconds: dict[str, float]) -> dict[str, Any]:
    """Share a bar out by time, the longest part first; more than seven parts end in "the rest".

    Args:
        name: what the bar is of.
        seconds: time of each part.
    """
    whole = math.fsum(seconds.values()) or 1.0
    ordered = sorted(seconds.items(), key=lambda item: -item[1])
    if len(ordered) > 7:
        ordered = [*ordered[:6], ("the rest", math.fsum(v for _, v in ordered[6:]))]
    return {
        "name": name,
        "parts": [
            {
                "colour": index,
                "share": round(100 * value / whole, 2),
                "text": f"{part}: {format_seconds(value)} ({100 * value / whole:.0f} %)",
            }
            for index, (part, value) in enumerate(ordered)
        ],
    }
