"""A diagnosis as a few lines of text."""

from __future__ import annotations

from collections.abc import Iterator

from ..scoring.diagnosis import Diagnosis


def diagnosis_lines(diagnosis: Diagnosis, path: str) -> Iterator[str]:
    """Yield loss, gradient, eigenvalues, their sum (the trace), and the negative share of squared curvature.

    Args:
        diagnosis: what was measured.
        path: where it was written.
    """
    where = "all layers" if diagnosis.layer is None else f"layer {diagnosis.layer}"
    trace, error = diagnosis.trace
    first, second = diagnosis.eigenvalues
    yield f"{path}: Hessian by {diagnosis.num_parameters:,} weights of {diagnosis.model}, {where}"
    yield (
        f"loss {diagnosis.loss:.4g} {diagnosis.loss_unit} over {diagnosis.num_samples} samples of {diagnosis.data}, "
        f"gradient {diagnosis.gradient_norm:.3g}"
    )
    yield (
        f"top eigenvalues {first:.4g} and {second:.4g}, least {diagnosis.least_eigenvalue:.3g} or below, "
        f"trace {trace:.4g} ± {error:.2g}, negative {diagnosis.spectrum.negative_share:.1%} of squared curvature"
    )
    down = diagnosis.descent
    if down is None:
        yield "no direction of negative curvature was found"
    else:
        yield f"along the least curvature found, {down.curvature:.3g}, the loss falls by {down.fall:.3g}"
