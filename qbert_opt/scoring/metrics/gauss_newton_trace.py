"""Mean trace of each matrix's Gauss-Newton matrix times the squared quantization error: ½ · tr(G)/n · ‖ΔW‖².

Like `trace`, but without labels and without sampling: from the same factor pass as `directional`, at softmax
temperature 1, where the Gauss-Newton matrix is the Hessian of KL to the unperturbed model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..hessian_operators import priced_by
from ..matrix_factors import TRACE, curvature_of_factors
from ..task import Estimate, ScoringTask

LOSS_UNIT = "nats of KL(reference || quantized) per sample, if errors were spread evenly over all directions"
CONTAINS = "mean trace of each matrix's Gauss-Newton matrix times its squared quantization error"
NEEDS_LABELS = False
PAGEABLE = True


def score(task: ScoringTask, pending: Sequence[int]) -> Iterator[tuple[int, Estimate]]:
    """Score each matrix by its mean trace, exact for these texts if all output columns are back-propagated.

    Args:
        task: model, texts and quantization errors.
        pending: indices of the matrices to score.
    """
    yield from priced_by(task, pending, curvature_of_factors(task, TRACE))
