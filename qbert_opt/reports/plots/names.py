"""Names beside points, placed so that they cover no marker, no line and no other name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cbook import STEP_LOOKUP_MAP
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.transforms import Bbox

POINTS_PER_INCH = 72
# offsets of a name from its point in pt, with its alignment: the first one that is free is used
PLACES = ((6, 5, "left", "bottom"), (-6, 5, "right", "bottom"), (6, -5, "left", "top"), (-6, -5, "right", "top"))


def name_points(figure: Figure, axes: Axes, points: Sequence[tuple[float, float, str]], most: int) -> None:
    """Write names beside points; a name for which there is no free place is left out.

    Args:
        figure: the figure, which is laid out first, so everything else must be drawn already.
        axes: axes of the figure, with markers.
        points: x, y and name of each point.
        most: maximum number of names.
    """
    if not points:
        return
    figure.draw_without_rendering()
    taken = list(_markers(figure, axes))
    lines = list(_paths(axes))
    full = len(taken) + most
    for x, y, name in points:
        if len(taken) == full:
            return
        text = axes.annotate(name, (x, y), textcoords="offset points", xytext=(0, 0), fontsize=7, zorder=2.5,
                             bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.7})  # fmt: skip
        for across, up, horizontal, vertical in PLACES:
            text.set_position((across, up))
            text.set(horizontalalignment=horizontal, verticalalignment=vertical)
            box = text.get_window_extent()
            covers = any(box.overlaps(other) for other in taken)
            crossed = any(path.intersects_bbox(box, filled=False) for path in lines)
            if _within(box, axes.bbox) and not covers and not crossed:
                taken.append(box)
                break
        else:
            text.remove()


def _markers(figure: Figure, axes: Axes) -> Iterator[Bbox]:
    """Yield the box of every marker, in pixels."""
    for line in axes.lines:
        if line.get_marker() in (None, "None", "none", ""):
            continue
        every = line.get_markevery()
        half = line.get_markersize() / 2 * figure.dpi / POINTS_PER_INCH
        shown = np.asarray(line.get_xydata(), dtype=float)[:: every if isinstance(every, int) else 1]
        for x, y in axes.transData.transform(shown) if len(shown) else ():
            yield Bbox.from_extents(x - half, y - half, x + half, y + half)


def _paths(axes: Axes) -> Iterator[Path]:
    """Yield every line as drawn, in pixels."""
    for line in axes.lines:
        if line.get_linestyle() not in ("None", ""):
            x, y = STEP_LOOKUP_MAP[line.get_drawstyle()](*line.get_data())
            yield line.get_transform().transform_path(Path(np.column_stack([x, y])))


def _within(box: Bbox, whole: Bbox) -> bool:
    return bool(box.x0 >= whole.x0 and box.x1 <= whole.x1 and box.y0 >= whole.y0 and box.y1 <= whole.y1)
