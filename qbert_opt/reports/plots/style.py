"""Style of all figures: colours that the colour-blind can distinguish, markers in addition, no clutter, plain names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.ticker import FuncFormatter

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, without its yellow: readable on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MAX_NAME = 48


def tidy(axes: Axes) -> None:
    """Leave the two axes that carry numbers, and a faint grid.

    Args:
        axes: changed in place.
    """
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def plain(text: str, longest: int = MAX_NAME) -> str:
    """Return a name as plain text: no mathematics in dollar signs, no line breaks, the middle of a long name left out.

    Args:
        text: a name from a file or the user.
        longest: maximum number of characters.
    """
    text = "".join(c if c.isprintable() else "?" for c in text)
    if len(text) > longest:
        text = f"{text[: longest // 2 - 1]}…{text[-(longest // 2) :]}"
    return text.replace("$", r"\$")


def plain_numbers(axis) -> None:  # type: ignore[no-untyped-def]
    """Write tick labels such as 0.002 instead of 2 × 10⁻³.

    Args:
        axis: an axis of the figure; changed in place.
    """
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
