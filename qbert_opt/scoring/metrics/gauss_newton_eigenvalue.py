"""Top eigenvalue of each matrix's Gauss-Newton matrix times the squared quantization error: ½ λ ‖ΔW‖².

Like `top-eigenvalue`, but without labels and without iteration: from the Gram matrix of the per-sample gradients of the
same factor pass as `directional`, at softmax temperature 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..hessian_operators import priced_by
from ..matrix_factors import EIGENVALUE, curvature_of_factors
from ..task import Estimate, ScoringTask

LOSS_UNIT = "nats of KL(reference || quantized) per sample, if every error lay along the top eigenvector"
CONTAINS = "top eigenvalue of each matrix's Gauss-Newton matrix times its squared quantization error"
NEEDS_LABELS = False
PAGEABLE = True


def score(task: ScoringTask, pending: Sequence[int]) -> Iterator[tuple[int, Estimate]]:
    """Score each matrix by its top eigenvalue: exact if all output columns are back-propagated, else slightly high.

    Args:
        task: model, texts and quantization errors.
        pending: indices of the matrices to score.
    """
    yield from priced_by(task, pending, curvature_of_factors(task, EIGENVALUE))
