"""The map of bits and the bars of the HTML report: cells, shares and texts, which its template draws."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from hwmodels import format_seconds

from ..planning.plan_grid import grid_of
from ..spec.allocation import Allocation
from .plan import TITLES

NAMED_CELLS = 600  # more matrices than this are shown by colour, with their names on hovering
MOST_TICKS = 40


def bit_map(plan: Allocation) -> dict[str, Any]:
    """Lay out a cell for each matrix over the full width of the page: layers down, matrices across, colour by bits.

    Args:
        plan: the plan; with up to 600 matrices each cell has a text, with more the names appear on hovering.

    Returns:
        Cells, titles of rows and columns with their positions in the grid, and the share of weights of each bit width.
    """
    grid = grid_of(plan.matrices)
    named = len(plan.matrices) <= NAMED_CELLS
    step = 1 if named else -(-len(grid.blocks) // MOST_TICKS)
    cells = []
    for index, m in enumerate(plan.matrices):
        row, column = grid.cells[index]
        size = f"c{m.group_size}" if m.axis == "columns" else f"r{m.num_groups}"
        kept = "*" if m.residency == "resident" else ""
        cells.append(
            {
                "row": row + 2,
                "column": column + 2,
                "bits": m.bits,
                "text": f"{m.bits} {size}{kept}" if named else "",
                "title": f"{m.module}: {m.choice.name}, {m.bytes:,} bytes, predicted loss {m.predicted_loss:.3g}",
            }
        )
    weights: Counter[int] = Counter()
    for m in plan.matrices:
        weights[m.bits] += m.rows * m.columns
    return {
        "named": named,
        "num_columns": len(grid.columns),
        "columns": [{"column": i + 2, "text": grid.title(i, TITLES)} for i in range(len(grid.columns))],
        "rows": [
            {"row": i + 2, "span": min(step, len(grid.blocks) - i), "text": grid.blocks[i] + 1}
            for i in range(0, len(grid.blocks), step)
        ],
        "cells": cells,
        "shares": [
            {"bits": bits, "text": f"{100 * count / plan.profile.encoder_elements:.1f} % of the weights"}
            for bits, count in sorted(weights.items())
        ],
    }


def stacked_bar(name: str, seconds: dict[str, float]) -> dict[str, Any]:
    """Divide a bar by time, the longest part first; if there are more than seven parts, the last is "the rest".

    Args:
        name: title of the bar.
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
