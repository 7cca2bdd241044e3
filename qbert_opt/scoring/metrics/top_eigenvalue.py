"""Top eigenvalue of each matrix's true Hessian times the squared quantization error: ½ |λ| ‖ΔW‖².

The largest second-order increase of the loss for an error of that norm (HAWQ, Dong et al. 2019, has no ½). λ is the
eigenvalue of largest magnitude, from Lanczos iteration; its sign is kept in the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ...spec.score_parts import MatrixCurvature
from ..hessian_operators import hessian_operator, priced_by, settled_eigenpair, spread, text_slices
from ..task import Estimate, ScoringTask

LOSS_UNIT = "nats of cross-entropy per sample, if every error lay along the top eigenvector"
CONTAINS = "top eigenvalue of each matrix's Hessian times its squared quantization error"
NEEDS_LABELS = True


def score(task: ScoringTask, pending: Sequence[int]) -> Iterator[tuple[int, Estimate]]:
    """Score each matrix by its own top eigenvalue over all scoring text.

    The standard error is that of uᵀ H_s u over slices s of the texts for a fixed eigenvector u: the first-order change
    of the eigenvalue with the texts.

    Args:
        task: model, labelled texts and quantization errors.
        pending: indices of the matrices to score.

    Raises:
        UsageError: fewer texts than slices, or an eigenvalue does not converge.
    """
    slices = text_slices(task, "top-eigenvalue")
    names = [matrix.module for matrix in task.profile.matrices]

    def eigenvalue(key: str) -> list[float]:
        index = int(key.split()[-1])
        task.note(f"Hessian of {names[index]}")
        parameter = task.model.get_parameter(f"{names[index]}.weight")
        operator, origin = hessian_operator(task, [parameter], slices)
        pair = settled_eigenpair(task, operator, names[index], task.seed)
        forms = operator.quadratic_forms(pair.vector)
        rows = np.array(operator.batch_rows)
        parts = [np.average(forms[m], weights=rows[m]) for m in (np.array(origin) == s for s in range(len(slices)))]
        return [pair.value, spread([float(part) for part in parts]), operator.num_products]

    keys = [f"eigenvalue {index}" for index in range(len(names))]
    results = task.jobs.run(keys, eigenvalue)
    curvature = {
        index: MatrixCurvature(
            module=names[index], quantity="top eigenvalue of the Hessian", value=results[key][0],
            std_error=results[key][1], products=int(results[key][2]),
        )
        for index, key in enumerate(keys)
    }  # fmt: skip
    yield from priced_by(task, pending, curvature)
