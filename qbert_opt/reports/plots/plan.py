"""The plan in one figure: bits and sensitivity of every matrix."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap, LogNorm
from matplotlib.figure import Figure

from ...planning.plan_grid import Grid, grid_of
from ...spec.allocation import Allocation
from ...spec.scores import ScoreTable
from ..plan import TITLES
from .style import plain

# One hue from light to dark, readable in greyscale and by the colour-blind; more bits are darker.
BIT_COLOURS = {2: "#e8f0fa", 3: "#b8d2ee", 4: "#7fb0dd", 5: "#5c98cf", 6: "#3f80bf", 7: "#2b6aa8", 8: "#1b4d80"}

NAMED_CELLS = 600  # more matrices than this are shown by colour alone
MOST_TICKS = 40


def draw(plan: Allocation, scores: ScoreTable) -> Figure:
    """Draw bits and grouping of every matrix beside its sensitivity.

    Left: encoder layers by matrices, colour = bits, text = grouping. Right: the loss of each matrix at the fewest bits
    scored (its worst choice), on a log scale, which shows where bits are needed.

    Args:
        plan: the plan to draw.
        scores: the table that it was made from.
    """
    grid = grid_of(plan.matrices)
    width = max(11.5, min(24.0, 1.5 * len(grid.columns)))
    figure = Figure(figsize=(width, min(16.0, 1.9 + 0.36 * len(grid.blocks))), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1), sharey=True)
    _bits(figure, left, plan, grid)
    _sensitivity(figure, right, scores, grid)
    left.set_ylabel(f"{plan.profile.part} layer")
    figure.suptitle(
        f"{plain(plan.profile.name)}: {plan.encoder_bytes / 1e6:.2f} MB {plan.profile.part}, "
        f"{plan.average_bits:.2f} bits per weight, predicted loss {plan.predicted_loss:.3g} "
        f"± {plan.predicted_std_error:.1g} ({plan.status})",
        fontsize=11,
    )
    return figure


def _bits(figure: Figure, axes: Axes, plan: Allocation, grid: Grid) -> None:
    widths = sorted({m.bits for m in plan.matrices})
    picture = np.full((len(grid.blocks), len(grid.columns)), np.nan)
    for index, m in enumerate(plan.matrices):
        row, column = grid.cells[index]
        picture[row, column] = widths.index(m.bits)
        if len(plan.matrices) <= NAMED_CELLS:
            label = f"{m.bits}  {f'c{m.group_size}' if m.axis == 'columns' else f'r{m.num_groups}'}"
            colour = "white" if m.bits > 4 else "black"
            axes.text(column, row, label, ha="center", va="center", fontsize=8, color=colour)
    colours = ListedColormap([BIT_COLOURS[width] for width in widths])
    norm = BoundaryNorm(np.arange(-0.5, len(widths)), len(widths)) if len(widths) > 1 else None
    image = axes.imshow(picture, cmap=colours, norm=norm, aspect="auto")
    bar = figure.colorbar(image, ax=axes, ticks=range(len(widths)), pad=0.01)
    bar.ax.set_yticklabels([f"{width} bit" for width in widths])
    axes.set_title("bits and groups (r rows ranges, c inputs per range)", fontsize=10)
    _ticks(axes, grid)


def _sensitivity(figure: Figure, axes: Axes, scores: ScoreTable, grid: Grid) -> None:
    picture = np.full((len(grid.blocks), len(grid.columns)), np.nan)
    for index, row in enumerate(scores.values()[: len(grid.cells)]):
        if np.isfinite(row).any():
            picture[grid.cells[index]] = np.nanmax(row)
    positive = picture[picture > 0]
    norm = LogNorm(positive.min(), positive.max()) if positive.size and positive.max() > positive.min() else None
    image = axes.imshow(np.where(picture > 0, picture, np.nan), cmap="cividis", norm=norm, aspect="auto")
    figure.colorbar(image, ax=axes, pad=0.01).set_label(plain(scores.loss_unit.split(" (")[0], 90), fontsize=8)
    axes.set_title("loss of the worst choice, alone", fontsize=10)
    _ticks(axes, grid)


def _ticks(axes: Axes, grid: Grid) -> None:
    titles = [plain(grid.title(column, TITLES), 16) for column in range(len(grid.columns))]
    axes.set_xticks(range(len(titles)), titles, rotation=30, ha="right", fontsize=8)
    step = -(-len(grid.blocks) // MOST_TICKS)
    rows = range(0, len(grid.blocks), step)
    axes.set_yticks(rows, [str(grid.blocks[row] + 1) for row in rows], fontsize=8)
    axes.tick_params(length=0)
