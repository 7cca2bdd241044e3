"""What the Hessian says of a model: the density of its eigenvalues, and the loss along the top two eigenvectors."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...scoring.diagnosis import Diagnosis
from .style import COLOURS, plain, tidy

WIDTH = 0.01  # of the spectrum: standard deviation of the Gaussian that each eigenvalue is spread to
LEAST_DENSITY = 1e-7  # of the tallest: below it a picture shows rounding


def draw(found: Diagnosis) -> Figure:
    """Draw the density of eigenvalues beside the surface of the loss.

    Args:
        found: with or without a surface.
    """
    figure = Figure(figsize=(10.0, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_density(left, found)
    draw_surface(figure, right, found)
    where = "all layers" if found.layer is None else f"layer {found.layer}"
    figure.suptitle(f"{plain(found.model)}, {where}, {found.num_samples} samples of {plain(found.data)}", fontsize=10)
    return figure


def draw_density(axes: Axes, found: Diagnosis) -> None:
    """Draw the density of eigenvalues, logarithmic, negative ones marked; the band is its standard error.

    Args:
        axes: where to draw.
        found: with its density.
    """
    tidy(axes)
    nodes = [node for row in found.spectrum.nodes for node in row]
    low, high = min([*nodes, *found.eigenvalues, 0.0]), max([*nodes, *found.eigenvalues, 0.0])
    span = high - low or 1.0
    at = np.linspace(low - 0.05 * span, high + 0.05 * span, 801)
    density, error = found.spectrum.density(at, WIDTH * span)
    floor = LEAST_DENSITY * density.max()
    axes.fill_between(at, np.maximum(density - error, floor), np.maximum(density + error, floor), color="#cccccc")
    axes.plot(at, np.maximum(density, floor), color=COLOURS[0])
    if low < 0:
        axes.axvspan(at[0], 0.0, color=COLOURS[1], alpha=0.12, linewidth=0)
        share = f"negative: {found.spectrum.negative_share:.0%} of squared curvature"
        axes.text(0.02, 0.97, share, transform=axes.transAxes, va="top", fontsize=8)
    axes.set_yscale("log")
    axes.set_xlim(at[0], at[-1])
    axes.set_xlabel("eigenvalue of the Hessian")
    axes.set_ylabel("share of eigenvalues per unit")


def draw_surface(figure: Figure, axes: Axes, found: Diagnosis) -> None:
    """Draw the loss along the top two eigenvectors; the cross is the model itself.

    Args:
        figure: gets the colour bar.
        axes: where to draw.
        found: with its surface.
    """
    surface = found.surface
    image = axes.contourf(surface.first, surface.second, np.array(surface.loss).T, levels=16, cmap="cividis")
    axes.plot(0.0, 0.0, "x", color=COLOURS[1], markersize=9, markeredgewidth=2)
    figure.colorbar(image, ax=axes, pad=0.01).set_label(f"loss, {plain(found.loss_unit, 80)}", fontsize=8)
    axes.set_xlabel(f"moved along the eigenvector of λ = {found.eigenvalues[0]:.3g}")
    axes.set_ylabel(f"moved along the eigenvector of λ = {found.eigenvalues[1]:.3g}")
