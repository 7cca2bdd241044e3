"""The plan in one figure: bits of every matrix, and how much each weighs in the loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap, LogNorm
from matplotlib.figure import Figure

from ..allocation import Allocation
from ..errors import UsageError
from ..files import atomic_file
from ..report import TITLES
from ..scores import ScoreTable

# One-hue ramp from light to dark, readable in grey and by the colour-blind; more bits are darker.
BIT_COLOURS = {2: "#e8f0fa", 3: "#b8d2ee", 4: "#7fb0dd", 5: "#5c98cf", 6: "#3f80bf", 7: "#2b6aa8", 8: "#1b4d80"}


def draw(plan: Allocation, scores: ScoreTable) -> Figure:
    """Draw bits and grouping of every matrix beside its sensitivity.

    Left: encoder layers by matrices, colour = bits, text = grouping. Right: the loss that the matrix would cost at the
    fewest bits scored (its worst choice), on a log scale: what the bits were spent on.
    """
    kinds = list(dict.fromkeys(m.kind for m in plan.matrices))
    blocks = sorted({m.block for m in plan.matrices})
    figure = Figure(figsize=(11.5, 1.9 + 0.36 * len(blocks)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1), sharey=True)
    _bits(figure, left, plan, kinds, blocks)
    _sensitivity(figure, right, scores, kinds, blocks)
    left.set_ylabel("encoder layer")
    figure.suptitle(
        f"{plan.profile.name}: {plan.encoder_bytes / 1e6:.2f} MB encoder, {plan.average_bits:.2f} bits per weight, "
        f"predicted loss {plan.predicted_loss:.3g} ({plan.status})",
        fontsize=11,
    )
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG or SVG, whole or not at all.

    Raises:
        UsageError: another ending.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".png", ".svg"):
        raise UsageError(f"--plot {path}: unknown ending {suffix!r}. Legal: .png, .svg.")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format=suffix[1:], dpi=160)


def _bits(figure, axes, plan, kinds, blocks) -> None:  # type: ignore[no-untyped-def]
    widths = sorted({m.bits for m in plan.matrices})
    grid = np.full((len(blocks), len(kinds)), np.nan)
    for m in plan.matrices:
        row, column = blocks.index(m.block), kinds.index(m.kind)
        grid[row, column] = widths.index(m.bits)
        label = (
            f"{m.bits}  {'c' if m.axis == 'columns' else 'r'}{m.group_size if m.axis == 'columns' else m.num_groups}"
        )
        axes.text(column, row, label, ha="center", va="center", fontsize=8, color="white" if m.bits > 4 else "black")
    colours = ListedColormap([BIT_COLOURS[width] for width in widths])
    norm = BoundaryNorm(np.arange(-0.5, len(widths)), len(widths)) if len(widths) > 1 else None
    image = axes.imshow(grid, cmap=colours, norm=norm, aspect="auto")
    bar = figure.colorbar(image, ax=axes, ticks=range(len(widths)), pad=0.01)
    bar.ax.set_yticklabels([f"{width} bit" for width in widths])
    axes.set_title("bits and groups (r rows ranges, c inputs per range)", fontsize=10)
    _ticks(axes, kinds, blocks)


def _sensitivity(figure, axes, scores, kinds, blocks) -> None:  # type: ignore[no-untyped-def]
    values = scores.values()
    grid = np.full((len(blocks), len(kinds)), np.nan)
    for m, row in zip(scores.profile.matrices, values, strict=True):
        grid[blocks.index(m.block), kinds.index(m.kind)] = np.nanmax(row)
    positive = grid[grid > 0]
    norm = LogNorm(positive.min(), positive.max()) if positive.size and positive.max() > positive.min() else None
    image = axes.imshow(np.where(grid > 0, grid, np.nan), cmap="cividis", norm=norm, aspect="auto")
    figure.colorbar(image, ax=axes, pad=0.01).set_label(scores.loss_unit.split(" (")[0], fontsize=8)
    axes.set_title("loss of the worst choice, alone", fontsize=10)
    _ticks(axes, kinds, blocks)


def _ticks(axes, kinds, blocks) -> None:  # type: ignore[no-untyped-def]
    axes.set_xticks(range(len(kinds)), [TITLES.get(kind, kind) for kind in kinds], rotation=30, ha="right", fontsize=8)
    axes.set_yticks(range(len(blocks)), [str(block + 1) for block in blocks], fontsize=8)
    axes.tick_params(length=0)
