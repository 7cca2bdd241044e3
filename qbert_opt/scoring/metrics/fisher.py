"""Diagonal Fisher information times the squared quantization error: ½ Σ_i F_ii ΔW_i².

The Fisher information of the model's own predictions, an expectation over texts and over labels drawn from the model.
Its diagonal equals that of the Gauss-Newton matrix and is computed in closed form, without sampling. It is not the
*empirical* Fisher, which uses the labels of the data and is not a curvature (Kunstner et al. 2019). The diagonal
ignores interactions between weights; the sum over tokens is inside the square.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from ...curvature.factors import EXACT, SampleFactors
from ..matrix_factors import sampled_estimates
from ..task import Estimate, ScoringTask

LOSS_UNIT = "nats of KL(reference || quantized) per sample, diagonal of the curvature only"
CONTAINS = (
    "diagonal Fisher information of the model's own predictions times the squared quantization error, one encoder "
    "matrix at a time"
)
NEEDS_LABELS = False
PAGEABLE = True


def score(task: ScoringTask, pending: Sequence[int]) -> Iterator[tuple[int, Estimate]]:
    """Score matrices from the same factor pass as `directional`, at softmax temperature 1.

    Args:
        task: model, texts and quantization errors.
        pending: indices of the matrices to score.

    Raises:
        UsageError: one sample's gradients do not fit into memory.
    """
    for matrix in (task.profile.matrices[index] for index in pending):
        needed = 4 * EXACT.most(task.head) * matrix.elements
        task.shares.refuse_less(task.shares.limit // 8, needed, f"{matrix.module}: one sample's gradients")
    yield from sampled_estimates(task, pending, EXACT, lambda *arguments: [diagonal_losses(*arguments)])


def diagonal_losses(samples: Sequence[SampleFactors], perturbations: torch.Tensor, buffer_bytes: int) -> torch.Tensor:
    """Return ½ Σ_i F_ii ΔW_i² for each sample and ΔW, float64 `[N, choices]`.

    Args:
        samples: factors of N samples of one matrix.
        perturbations: ΔW, float32 `[choices, rows, columns]`.
        buffer_bytes: memory for gradients.
    """
    squared = perturbations.flatten(1).square()
    factors = samples[0].gradients.shape[0]
    step = min(len(samples), max(1, buffer_bytes // (4 * (factors + 1) * squared.shape[1])))
    buffer = perturbations.new_empty(factors, *perturbations.shape[1:])
    diagonals = perturbations.new_empty(step, squared.shape[1])
    per_sample = []
    for start in range(0, len(samples), step):
        part = samples[start : start + step]
        for slot, sample in zip(diagonals, part, strict=False):
            torch.sum(sample.jacobian(out=buffer).square_().flatten(1), 0, out=slot)
        per_sample.append((diagonals[: len(part)] @ squared.T).double() / 2)
    return torch.cat(per_sample)
