"""Second order of KL along the very rounding error: Ω(ΔW) = 1/(2N) Σ_n Σ_f (Σ_t gᵀ ΔW a)².

The Gauss-Newton form for softmax outputs, without labels. The sum over tokens is inside the square and the error keeps
its sign, which is what norms times a trace or an eigenvalue throw away.

The curvature is taken at softmax temperature 2. At 1 it is KL's own, but on a confident model nearly all of it sits
in a few uncertain samples, and which ones the scoring text holds is chance: whole plans then lose 1.5 to 12 times the
prediction. Softened, all samples count (`benchmarks/temperature.py` has both beside measured losses).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from ..activations import ActivationChoice
from ..choices import Choice
from ..curvature.factors import SampleFactors
from ..models.batches import TokenBatch
from ..scores import ActivationScores, TableScores
from ._activations import activation_scores
from ._factors import sampled_estimates
from ._tables import table_scores
from ._task import Estimate, ScoringTask

LOSS_UNIT = "nats of KL(reference || quantized) per sample"
CONTAINS = "second order of rounding encoder matrices, each alone, curvature at softmax temperature 2"
NEEDS_LABELS = False
TEMPERATURE = 2.0
JACOBIAN_BYTES = 1 << 27  # formed at a time


def score(task: ScoringTask, pending: Sequence[int]) -> Iterator[tuple[int, Estimate]]:
    """Score matrices in groups that fit the memory limit; each group costs one factor pass."""
    yield from sampled_estimates(task, pending, TEMPERATURE, sample_losses)


def score_tables(task: ScoringTask, choices: Sequence[Choice]) -> TableScores | None:
    """Score the embedding tables by the same form; costs one factor pass more."""
    return table_scores(task, choices, TEMPERATURE)


def score_activations(
    task: ScoringTask, fit: Sequence[TokenBatch], choices: Sequence[ActivationChoice]
) -> ActivationScores | None:
    """Score rounded inputs by the same form; costs one factor pass more."""
    return activation_scores(task, fit, choices, TEMPERATURE)


def quadratic_forms(samples: Sequence[SampleFactors], perturbations: torch.Tensor) -> Estimate:
    """Return Ω and its standard error for each ΔW.

    Args:
        samples: factors of N samples of one matrix.
        perturbations: float32 `[choices, rows, columns]`.
    """
    return Estimate.over(sample_losses(samples, perturbations))


def sample_losses(
    samples: Sequence[SampleFactors], perturbations: torch.Tensor, buffer_bytes: int = JACOBIAN_BYTES
) -> torch.Tensor:
    """Return ½ Σ_f (Σ_t gᵀ ΔW a)² of each sample and ΔW, float64 `[N, choices]`; forms a few gradients at a time."""
    flat = perturbations.reshape(len(perturbations), -1)
    factors = samples[0].gradients.shape[0]
    step = min(len(samples), max(1, buffer_bytes // (4 * factors * flat.shape[1])))
    buffer = perturbations.new_empty(
        step, factors, *perturbations.shape[1:]
    )  # reused: fresh pages cost more than the products
    per_sample = []
    for start in range(0, len(samples), step):
        part = samples[start : start + step]
        for slot, sample in zip(buffer, part, strict=False):
            sample.jacobian(out=slot)
        jacobians = buffer[: len(part)].reshape(len(part) * factors, -1)
        products = jacobians @ flat.T  # [samples * factors, choices]
        per_sample.append(products.double().square().reshape(len(part), factors, -1).sum(1) / 2)
    return torch.cat(per_sample)
