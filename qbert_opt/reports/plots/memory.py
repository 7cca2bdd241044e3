"""A timeline of memory: where each activation is, from the operation that makes it to the last one that reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from hwmodels import LiveTensor, format_bytes

from .style import COLOURS, plain, tidy

if TYPE_CHECKING:
    from hwmodels import CostReport

ATTENTION = ("scores", "softmax", "context")
STREAM = ("norm", "add")


def draw(report: CostReport) -> Figure:
    """Draw the arena of activations over the schedule, without weights.

    The horizontal axis has the operations in order if they run one after the other, else seconds.

    Args:
        report: cost of one inference.
    """
    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots()
    memory = report.memory
    in_steps = all(float(tensor.start).is_integer() for tensor in memory.tensors)
    end = len(report.operations) if in_steps else max(row.finish_s for row in report.operations)
    colours = dict(zip(dict.fromkeys(_role(tensor) for tensor in memory.tensors), COLOURS, strict=False))
    for tensor in memory.tensors:
        width = tensor.stop - tensor.start + (1 if in_steps else 0)
        corner = (tensor.start, tensor.offset_bytes / 1e6)
        height = tensor.size_bytes / 1e6
        axes.add_patch(Rectangle(corner, width, height, fc=colours[_role(tensor)], ec="white", lw=0.4, alpha=0.75))
    axes.axhline(memory.live_bytes / 1e6, color="black", lw=1, ls="--")
    axes.text(0, memory.live_bytes / 1e6, f" most alive at once: {format_bytes(memory.live_bytes)}", va="bottom")
    axes.set_xlim(0, end)
    axes.set_ylim(0, 1.12 * memory.peak_bytes / 1e6)
    axes.set_xlabel("operation, in order of execution" if in_steps else "time in seconds")
    axes.set_ylabel("offset in the arena, MB")
    _legend(axes, colours)
    tidy(axes)
    axes.set_title(
        f"{plain(report.device)}: activations take {format_bytes(memory.peak_bytes)} beside "
        f"{format_bytes(report.held_bytes)} of weights",
        fontsize=11,
    )
    return figure


def _role(tensor: LiveTensor) -> str:
    """Return what kind of operation made a tensor, from its name in the operator graph."""
    last = tensor.name.rsplit(".", 1)[-1]
    if last in ATTENTION:
        return "attention"
    if last in STREAM:
        return "sums and norms"
    return "activation function" if last == "activation" else "products and tables"


def _legend(axes: Axes, colours: dict[str, str]) -> None:
    handles = [Patch(fc=colour, alpha=0.75, label=role) for role, colour in colours.items()]
    axes.legend(handles=handles, fontsize=8, loc="upper right", ncols=len(handles), title="made by", title_fontsize=8)
