"""Top eigenvalue of each matrix' Gauss-Newton matrix times the squared rounding error: ½ λ ‖ΔW‖².

`top-eigenvalue` without labels and without iterating: from the Gram matrix of per-sample gradients of the factor pass
that `directional` makes, at softmax temperature 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..hessian_operators import priced_by
from ..matrix_factors import EIGENVALUE, curvature_of_factors
from ..task import Estimate, ScoringTask

LOSS_UNIT = "nats of KL(reference || quantized) per sample, were every error along the top eigenvector"
CONTAINS = "top eigenvalue of each matrix' Gauss-Newton matrix times its squared error"
NEEDS_LABELS = False


def score(task: ScoringTask, pending: Sequence[int]) -> Iterator[tuple[int, Estimate]]:
    """Score each matrix by its top eigenvalue: exact where all output columns are taken, else a little high."""
    yield from priced_by(task, pending, curvature_of_factors(task, EIGENVALUE))
