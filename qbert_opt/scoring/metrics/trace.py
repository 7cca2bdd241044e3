"""Mean trace of each matrix's true Hessian times the squared quantization error: ½ · tr(H)/n · ‖ΔW‖².

HAWQ-V2's Ω (Dong et al. 2020, equation 10) times ½, which makes it the expected second-order loss, in nats, for an
error in a random direction; the ranking is the same. One Hutchinson draw gives the traces of all matrices. Each of ten
slices of the texts has its own draws, so that the spread over slices reflects the total error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ...curvature.hutchinson import trace_draw
from ...spec.score_parts import MatrixCurvature
from ..hessian_operators import NUM_SLICES, hessian_operator, priced_by, spread, text_slices
from ..task import Estimate, ScoringTask

LOSS_UNIT = "nats of cross-entropy per sample, if errors were spread evenly over all directions"
CONTAINS = "mean trace of each matrix's Hessian times its squared quantization error"
NEEDS_LABELS = True
DRAWS = 8  # per slice; HAWQ-V2 finds 50 in total sufficient
VECTOR_BYTES = 36  # per parameter: signs, product and gradient, in float64 and float32


def score(task: ScoringTask, pending: Sequence[int]) -> Iterator[tuple[int, Estimate]]:
    """Score each matrix by the mean trace of its Hessian block.

    Args:
        task: model, labelled texts and quantization errors.
        pending: indices of the matrices to score.

    Raises:
        UsageError: fewer texts than slices, or too small a memory limit.
    """
    slices = text_slices(task, "trace")
    names = [matrix.module for matrix in task.profile.matrices]
    groups = _groups(task)

    def draws(key: str) -> list[float]:
        group, part = (int(word) for word in key.split()[1::2])
        task.note(f"traces of {len(groups[group])} matrices, slice {part + 1}/{len(slices)}")
        parameters = [task.model.get_parameter(f"{names[i]}.weight") for i in groups[group]]
        operator, _ = hessian_operator(task, parameters, [slices[part]])
        sizes = [p.numel() for p in parameters]
        estimates = [trace_draw(operator, sizes, (task.seed, group, part, draw)) for draw in range(DRAWS)]
        return [float(value) for value in np.mean(estimates, axis=0)]

    keys = [[f"group {group} slice {part}" for part in range(NUM_SLICES)] for group in range(len(groups))]
    results = task.jobs.run([key for row in keys for key in row], draws)
    curvature = {}
    for group, row in zip(groups, keys, strict=True):
        for place, index in enumerate(group):
            values = [results[key][place] for key in row]
            curvature[index] = MatrixCurvature(
                module=names[index], quantity="trace of the Hessian", value=float(np.mean(values)),
                std_error=spread(values), products=NUM_SLICES * DRAWS,
            )  # fmt: skip
    yield from priced_by(task, pending, curvature)


def _groups(task: ScoringTask) -> list[list[int]]:
    """Group matrices whose vectors fit into memory together."""
    groups: list[list[int]] = []
    used = 0
    for index, matrix in enumerate(task.profile.matrices):
        size = VECTOR_BYTES * matrix.elements
        task.shares.refuse_less(task.shares.factors, size, f"{matrix.module}: vectors of its size")
        if not groups or used + size > task.shares.factors:
            groups.append([])
            used = 0
        groups[-1].append(index)
        used += size
    return groups
