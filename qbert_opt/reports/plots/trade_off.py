"""Frontiers in one plot: a curve for each over one resource, or a single one as a surface over two resources."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from ...errors import InfeasibleError, UsageError
from ...workflows.frontiers import Curve, Mark
from . import frontier, surface


def draw(curves: Sequence[Curve], resources: tuple[str, ...], marks: Sequence[Mark] = ()) -> Figure:
    """Draw frontiers over the same resources.

    Args:
        curves: at least one; exactly one for two resources.
        resources: one or two names in `RESOURCES`.
        marks: further plans to show.

    Raises:
        InfeasibleError: there is no plan to draw as a surface.
        UsageError: there are several surfaces.
    """
    if len(resources) == 1:
        return frontier.draw(curves, resources[0], marks)
    if len(curves) > 1:
        raise UsageError("`plot`: two resources are drawn for one device and one table at a time.")
    [curve] = curves
    if curve.trade_off is None:
        raise InfeasibleError(curve.reason)
    return surface.draw(curve.trade_off, marks)
