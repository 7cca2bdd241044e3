"""Q-BERT's Ω = |mean λ| + std λ per matrix instead of per encoder layer, times ‖ΔW‖².

The paper's equation 1 with each weight matrix' own Hessian block; ten slices of the data, as in `qbert`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..curvature.hessian import top_eigenvalue
from ..scores import MatrixCurvature
from ._hessian import NUM_SLICES, hessian_operator, priced_by, spread, text_slices
from ._task import Estimate, ScoringTask
from .qbert import omega

LOSS_UNIT = "Q-BERT Ω × ‖ΔW‖² (no loss; ranks only)"
CONTAINS = "top eigenvalue of each matrix' Hessian times its squared error"
NEEDS_LABELS = True


def score(task: ScoringTask, pending: Sequence[int]) -> Iterator[tuple[int, Estimate]]:
    """Score each matrix by its own Ω."""
    slices = text_slices(task, "qbert-matrix")
    names = [matrix.module for matrix in task.profile.matrices]

    def eigenvalue(key: str) -> list[float]:
        index, part = (int(word) for word in key.split()[1::2])
        task.note(f"Hessian of {names[index]}, slice {part + 1}/{len(slices)}")
        operator, _ = hessian_operator(task, [task.model.get_parameter(f"{names[index]}.weight")], [slices[part]])
        return [top_eigenvalue(operator, seed=task.seed + part), operator.num_products]

    keys = [[f"matrix {index} slice {part}" for part in range(NUM_SLICES)] for index in range(len(names))]
    found = task.jobs.run([key for row in keys for key in row], eigenvalue)
    curvature = {}
    for index, row in enumerate(keys):
        eigenvalues = tuple(found[key][0] for key in row)
        curvature[index] = MatrixCurvature(
            module=names[index], quantity="Ω = |mean λ| + std λ", value=omega(eigenvalues),
            std_error=spread(eigenvalues), eigenvalues=eigenvalues, products=sum(int(found[key][1]) for key in row),
        )  # fmt: skip
    yield from priced_by(task, pending, curvature, half=1.0)
