"""Frontiers in one picture: a curve for each over one resource, or the surface of a single one over two."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from ...errors import InfeasibleError, UsageError
from ...workflows.frontiers import Curve, Mark
from . import frontier, surface


def draw(curves: Sequence[Curve], resources: tuple[str, ...], marks: Sequence[Mark] = ()) -> Figure:
    """Draw frontiers of the same resources.

    Args:
        curves: at least one; exactly one for two resources.
        resources: one or two names in `RESOURCES`.
        marks: plans to show beside them.

    Raises:
        InfeasibleError: a surface of a subject without any plan.
        UsageError: several surfaces.
    """
    if len(resources) == 1:
        return frontier.draw(curves, resources[0], marks)
    if len(curves) > 1:
        raise UsageError("`plot`: two resources are drawn for one device and one table at a time.")
    [curve] = curves
    if curve.found is None:
        raise InfeasibleError(curve.reason)
    return surface.draw(curve.found, marks)
