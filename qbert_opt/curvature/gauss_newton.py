"""Eigenvalue and trace of each matrix's Gauss-Newton matrix from the Gram matrix of its per-sample gradients.

The Gauss-Newton matrix of N samples, `G = 1/N Σ_n Σ_f J_nf J_nfᵀ`, has one row per weight. The Gram matrix
`K = [⟨J_nf, J_mf'⟩] / N` has the same nonzero eigenvalues and only one row per sample and factor
(Dangel et al. 2022, "ViViT: curvature access through the generalized Gauss-Newton's low-rank structure").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from .factors import SampleFactors


@dataclass(frozen=True, slots=True)
class Curvature:
    """A value with its standard error over samples.

    Attributes:
        value: the mean over samples, or the eigenvalue.
        std_error: its standard error.
    """

    value: float
    std_error: float


def gram_matrix(parts: Sequence[Callable[[], Sequence[SampleFactors]]], buffer_bytes: int) -> torch.Tensor:
    """Return float64 `[N * F, N * F]`: inner products of the gradients of all samples and factors.

    Args:
        parts: functions that return the factors of N samples of one matrix, in one or several parts; two parts are in
            memory at a time.
        buffer_bytes: memory for gradients; at least one output row of all samples is formed at a time.
    """
    blocks: list[list[torch.Tensor]] = [[] for _ in parts]
    for i, part in enumerate(parts):
        left = part()
        blocks[i].extend(blocks[j][i].T for j in range(i))
        for j in range(i, len(parts)):
            blocks[i].append(_block(left, left if i == j else parts[j](), buffer_bytes))
    return torch.cat([torch.cat(row, 1) for row in blocks])


def top_eigenvalue(gram: torch.Tensor, num_samples: int) -> Curvature:
    """Return the largest eigenvalue of the Gauss-Newton matrix.

    Its standard error is that of the mean over samples of (J_n · u)² for a fixed eigenvector u: the first-order change
    of the eigenvalue with the samples.

    Args:
        gram: float64 `[N * F, N * F]`, see `gram_matrix`.
        num_samples: N.
    """
    values, vectors = torch.linalg.eigh(gram / num_samples)
    top = float(values[-1].clamp_min(0))
    shares = num_samples * top * vectors[:, -1].square().reshape(num_samples, -1).sum(1)
    return Curvature(top, float(shares.std()) / num_samples**0.5)


def trace(squared: torch.Tensor) -> Curvature:
    """Return the trace of the Gauss-Newton matrix, with its standard error over samples.

    Args:
        squared: Σ_f ‖J_nf‖² of each sample, float64 `[N]`; see `squared_norms`.
    """
    return Curvature(float(squared.mean()), float(squared.std()) / len(squared) ** 0.5)


def squared_norms(samples: Sequence[SampleFactors]) -> torch.Tensor:
    """Return Σ_f ‖J_nf‖² of each sample, float64 `[N]`, without forming gradients.

    ‖Σ_t g_t a_tᵀ‖² = Σ_{t,s} (g_t · g_s)(a_t · a_s), cheap for short texts.

    Args:
        samples: factors of one matrix for N samples.
    """
    return torch.stack(
        [
            ((sample.inputs @ sample.inputs.T) * (sample.gradients @ sample.gradients.transpose(1, 2))).double().sum()
            for sample in samples
        ]
    )


def _block(left: Sequence[SampleFactors], right: Sequence[SampleFactors], buffer_bytes: int) -> torch.Tensor:
    """Inner products of the gradients of two lists of samples, for a range of output rows at a time."""
    factors, _, rows = left[0].gradients.shape
    counts = [len(left) * factors, len(right) * factors]
    step = min(rows, max(1, buffer_bytes // (4 * sum(counts) * left[0].inputs.shape[1])))
    block = torch.zeros(counts, dtype=torch.float64, device=left[0].inputs.device)
    for start in range(0, rows, step):
        gradients = _rows(left, start, start + step)
        block += (gradients @ (gradients if left is right else _rows(right, start, start + step)).T).double()
    return block


def _rows(samples: Sequence[SampleFactors], start: int, stop: int) -> torch.Tensor:
    """Gradients of some output rows, `[samples * F, rows * columns]`."""
    return torch.cat([(s.gradients[:, :, start:stop].transpose(1, 2) @ s.inputs).flatten(1) for s in samples])
