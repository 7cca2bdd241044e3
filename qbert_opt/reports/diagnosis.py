"""A diagnosis as a few lines."""

from __future__ import annotations

from collections.abc import Iterator

from ..scoring.diagnosis import Diagnosis


def diagnosis_lines(found: Diagnosis, path: str) -> Iterator[str]:
    """Loss, gradient, eigenvalues, their sum, and what of it is negative.

    Args:
        found: what was measured.
        path: where it was written.
    """
    where = "all layers" if found.layer is None else f"layer {found.layer}"
    trace, error = found.trace
    first, second = found.eigenvalues
    yield f"{path}: Hessian by {found.num_parameters:,} weights of {found.model}, {where}"
    yield (
        f"loss {found.loss:.4g} {found.loss_unit} over {found.num_samples} samples of {found.data}, "
        f"gradient {found.gradient_norm:.3g}"
    )
    yield (
        f"top eigenvalues {first:.4g} and {second:.4g}, least {found.spectrum.least:.3g} or below, "
        f"trace {trace:.4g} ± {error:.2g}, negative {found.spectrum.negative_share:.1%} of squared curvature"
    )
    down = found.descent
    if down is None:
        yield "no direction of negative curvature was found"
    else:
        yield f"along the least curvature found, {down.curvature:.3g}, the loss falls by {down.fall:.3g}"
