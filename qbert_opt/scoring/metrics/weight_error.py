"""Squared Frobenius norm of the quantization error, ‖ΔW‖²: data-free, every matrix equally sensitive.

The baseline that any other metric must beat: it uses the weights only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from ..task import Estimate, ScoringTask

LOSS_UNIT = "‖ΔW‖² (not a loss; ranks only)"
CONTAINS = "squared quantization error of matrices; uses neither text nor outputs"
NEEDS_LABELS = False
PAGEABLE = True


def score(task: ScoringTask, pending: Sequence[int]) -> Iterator[tuple[int, Estimate]]:
    """Score by the error norm alone, which is exact, so the standard error is 0.

    Args:
        task: quantization errors.
        pending: indices of the matrices to score.
    """
    for index in pending:
        squared = task.squared_errors(task.profile.matrices[index])
        yield index, Estimate(squared, torch.zeros_like(squared))
