"""The diagnosis of a model: the density of its Hessian's eigenvalues, and the loss along the top two eigenvectors."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...scoring.diagnosis import Diagnosis
from .style import COLOURS, plain, tidy

WIDTH = 0.01  # standard deviation of the Gaussian that replaces each eigenvalue, relative to the range of the spectrum
LEAST_DENSITY = 1e-7  # relative to the largest: smaller densities are rounding errors


def draw(diagnosis: Diagnosis) -> Figure:
    """Draw the density of eigenvalues beside the surface of the loss.

    Args:
        diagnosis: a diagnosis with or without a surface.
    """
    figure = Figure(figsize=(10.0, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_density(left, diagnosis)
    draw_surface(figure, right, diagnosis)
    where = "all layers" if diagnosis.layer is None else f"layer {diagnosis.layer}"
    samples = f"{diagnosis.num_samples} samples of {plain(diagnosis.data)}"
    figure.suptitle(f"{plain(diagnosis.model)}, {where}, {samples}", fontsize=10)
    return figure


def draw_density(axes: Axes, diagnosis: Diagnosis) -> None:
    """Draw the density of eigenvalues on a logarithmic axis, negative ones marked; the band is its standard error.

    Args:
        axes: where to draw.
        diagnosis: a diagnosis with a density.
    """
    tidy(axes)
    nodes = [node for row in diagnosis.spectrum.nodes for node in row]
    low, high = min([*nodes, *diagnosis.eigenvalues, 0.0]), max([*nodes, *diagnosis.eigenvalues, 0.0])
    span = high - low or 1.0
    at = np.linspace(low - 0.05 * span, high + 0.05 * span, 801)
    density, error = diagnosis.spectrum.density(at, WIDTH * span)
    floor = LEAST_DENSITY * density.max()
    axes.fill_between(at, np.maximum(density - error, floor), np.maximum(density + error, floor), color="#cccccc")
    axes.plot(at, np.maximum(density, floor), color=COLOURS[0])
    if low < 0:
        axes.axvspan(at[0], 0.0, color=COLOURS[1], alpha=0.12, linewidth=0)
        share = f"negative: {diagnosis.spectrum.negative_share:.0%} of squared curvature"
        axes.set_title(share, loc="left", fontsize=8)  # inside the axes, it would cover the curve
    axes.set_yscale("log")
    axes.set_xlim(at[0], at[-1])
    axes.set_xlabel("eigenvalue of the Hessian")
    axes.set_ylabel("share of eigenvalues per unit")


def draw_surface(figure: Figure, axes: Axes, diagnosis: Diagnosis) -> None:
    """Draw the loss along the top two eigenvectors; the cross is the model itself.

    Args:
        figure: gets the colour bar.
        axes: where to draw.
        diagnosis: a diagnosis with a surface.
    """
    surface = diagnosis.surface
    image = axes.contourf(surface.first, surface.second, np.array(surface.loss).T, levels=16, cmap="cividis")
    axes.plot(0.0, 0.0, "x", color=COLOURS[1], markersize=9, markeredgewidth=2)
    figure.colorbar(image, ax=axes, pad=0.01).set_label(f"loss, {plain(diagnosis.loss_unit, 80)}", fontsize=8)
    axes.set_xlabel(f"moved along the eigenvector of λ = {diagnosis.eigenvalues[0]:.3g}")
    axes.set_ylabel(f"moved along the eigenvector of λ = {diagnosis.eigenvalues[1]:.3g}")
