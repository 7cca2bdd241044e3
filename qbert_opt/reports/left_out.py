"""What a plan leaves out of its model, as text."""

from __future__ import annotations

from collections.abc import Sequence

from ..spec.allocation import Allocation
from ..spec.dropped import DroppedHeads
from ..spec.planned import DroppedLayers
from .printing import with_error


def left_out_lines(plan: Allocation) -> list[str]:
    """Name the layers or attention heads that a plan leaves out, with the loss that was measured without them.

    Args:
        plan: the plan.
    """
    if plan.dropped is not None:
        return [_layers_line(plan.dropped)]
    return [] if plan.dropped_heads is None else _head_lines(plan.dropped_heads)


def _layers_line(dropped: DroppedLayers) -> str:
    numbers = ", ".join(str(layer + 1) for layer in dropped.layers)
    layers = "layer" if len(dropped.layers) == 1 else "layers"
    loss = with_error(dropped.predicted_loss, dropped.std_error)
    return (
        f"left out         {layers} {numbers} of {dropped.num_layers}: measured loss {loss} without quantization; the "
        "table renumbers the others"
    )


def _head_lines(dropped: DroppedHeads) -> list[str]:
    loss = with_error(dropped.predicted_loss, dropped.std_error)
    layers = [
        f"{layer + 1}: {', '.join(str(head + 1) for head in heads)}"
        for layer, heads in enumerate(dropped.heads)
        if heads
    ]
    return [
        f"left out         {dropped.count} of {_total(dropped)} attention heads: measured loss {loss} without "
        "quantization, on the scoring texts that did not choose them",
        f"                 (by layer {'; '.join(layers)})",
    ]


def all_heads_line(tried: Sequence[DroppedHeads]) -> str:
    """Return a line that says that all heads are kept, and what leaving some out would have cost.

    Args:
        tried: the sets of heads that were tried, ascending.
    """
    costs = [f"{one.count} of {_total(one)} cost {with_error(one.predicted_loss, one.std_error)}" for one in tried]
    shown = costs if len(costs) == 1 else [costs[0], costs[-1]]
    return f"attention heads  all kept: fewer bits lose less than fewer heads ({', '.join(shown)})"


def _total(dropped: DroppedHeads) -> int:
    return dropped.num_heads * len(dropped.heads)
