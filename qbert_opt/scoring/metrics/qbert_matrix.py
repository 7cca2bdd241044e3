"""Q-BERT's Ω = |mean λ| + std λ per matrix instead of per encoder layer, times ‖ΔW‖².

The paper's equation 1, applied to each weight matrix's own Hessian block; ten slices of the data, as in `qbert`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...spec.score_parts import MatrixCurvature
from ..hessian_operators import (
    NUM_SLICES,
    hessian_operator,
    omega,
    omega_error,
    priced_by,
    say_negative,
    settled_eigenpair,
    text_slices,
)
from ..task import Estimate, ScoringTask

LOSS_UNIT = "Q-BERT Ω × ‖ΔW‖² (not a loss; ranks only)"
CONTAINS = "Ω = |mean λ| + std λ of each matrix's top Hessian eigenvalue times its squared quantization error"
NEEDS_LABELS = True


def score(task: ScoringTask, pending: Sequence[int]) -> Iterator[tuple[int, Estimate]]:
    """Score each matrix by its own Ω.

    Args:
        task: model, labelled texts and quantization errors.
        pending: indices of the matrices to score.

    Raises:
        UsageError: fewer texts than slices, or an eigenvalue does not converge.
    """
    slices = text_slices(task, "qbert-matrix")
    names = [matrix.module for matrix in task.profile.matrices]

    def eigenvalue(key: str) -> list[float]:
        index, part = (int(word) for word in key.split()[1::2])
        task.note(f"Hessian of {names[index]}, slice {part + 1}/{len(slices)}")
        operator, _ = hessian_operator(task, [task.model.get_parameter(f"{names[index]}.weight")], [slices[part]])
        pair = settled_eigenpair(task, operator, names[index], task.seed + part)
        return [pair.value, operator.num_products]

    keys = [[f"matrix {index} slice {part}" for part in range(NUM_SLICES)] for index in range(len(names))]
    results = task.jobs.run([key for row in keys for key in row], eigenvalue)
    curvature = {}
    for index, row in enumerate(keys):
        eigenvalues = tuple(results[key][0] for key in row)
        curvature[index] = MatrixCurvature(
            module=names[index],
            quantity="Ω = |mean λ| + std λ",
            value=omega(eigenvalues),
            std_error=omega_error(eigenvalues),
            eigenvalues=eigenvalues,
            products=sum(int(results[key][1]) for key in row),
        )
    negative = [c.module for c in curvature.values() if sum(c.eigenvalues) < 0]
    if negative:
        say_negative(task, "mean top eigenvalue over slices of the text", negative, f"{len(names)} matrices")
    yield from priced_by(task, pending, curvature, half=1.0)
