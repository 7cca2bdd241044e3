"""Second order of KL along the very rounding error: Ω(ΔW) = 1/(2N) Σ_n Σ_f (Σ_t gᵀ ΔW a)².

The Gauss-Newton form for softmax outputs, without labels. The sum over tokens is inside the square and the error keeps
its sign, which is what norms times a trace or an eigenvalue throw away.

**Softmax temperature.** KL's own curvature is that at temperature 1, but on a confident model nearly all of it sits in
a few uncertain texts, and which ones the scoring text holds is chance. At temperature 2 all texts count, and plans
chosen by it lose no more, on confident models half (`benchmarks/temperature.py`); but its unit is not KL. So choices
are ranked at temperature 2, and all scores are then multiplied by one common factor: the mean over matrices and choices
of the score at 1 over that at 2, both from the same back-propagations (`curvature.factors.sharpening`), shrunk towards
1 where a few texts carry it (`scored.common_scale`). Outputs whose factors are sign combinations are scored at
temperature 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from ..activations import ActivationChoice
from ..choices import Choice
from ..curvature.factors import SampleFactors, softened
from ..models.batches import TokenBatch
from ..scores import ActivationScores, TableScores
from ._activations import activation_scores
from ._factors import sampled_estimates
from ._tables import table_scores
from ._task import Estimate, ScoringTask

LOSS_UNIT = "nats of KL(reference || quantized) per sample"
CONTAINS = (
    "second order of rounding encoder matrices, each alone, ranked by the curvature at softmax temperature 2 and "
    "brought to KL's scale by one common factor"
)
NEEDS_LABELS = False
TEMPERATURE = 2.0
JACOBIAN_BYTES = 1 << 27  # formed at a time


def score(task: ScoringTask, pending: Sequence[int]) -> Iterator[tuple[int, Estimate]]:
    """Score matrices in groups that fit the memory limit; each group costs one factor pass."""
    yield from sampled_estimates(task, pending, softened(task.head, TEMPERATURE), both_losses)


def score_tables(task: ScoringTask, choices: Sequence[Choice]) -> TableScores | None:
    """Score the embedding tables by the same form; costs one factor pass more."""
    return table_scores(task, choices, softened(task.head, TEMPERATURE))


def score_activations(
    task: ScoringTask, fit: Sequence[TokenBatch], choices: Sequence[ActivationChoice]
) -> ActivationScores | None:
    """Score rounded inputs by the same form; costs one factor pass more."""
    return activation_scores(task, fit, choices, softened(task.head, TEMPERATURE))


def quadratic_forms(samples: Sequence[SampleFactors], perturbations: torch.Tensor) -> Estimate:
    """Return Ω and its standard error for each ΔW, at the temperature of the factors.

    Args:
        samples: factors of N samples of one matrix, in order of their numbers.
        perturbations: float32 `[choices, rows, columns]`.
    """
    return Estimate.over(*both_losses(samples, perturbations))


def both_losses(
    samples: Sequence[SampleFactors], perturbations: torch.Tensor, buffer_bytes: int = JACOBIAN_BYTES
) -> list[torch.Tensor]:
    """Return ½ Σ_f (Σ_t gᵀ ΔW a)² of each sample and ΔW, float64 `[N, choices]`; forms a few gradients at a time.

    A second array is the same at temperature 1, where the factors are at another and can tell.
    """
    flat = perturbations.reshape(len(perturbations), -1)
    factors = samples[0].gradients.shape[0]
    step = min(len(samples), max(1, buffer_bytes // (4 * factors * flat.shape[1])))
    # reused: fresh pages cost more than the products
    buffer = perturbations.new_empty(step, factors, *perturbations.shape[1:])
    given, sharp = [], []
    for start in range(0, len(samples), step):
        part = samples[start : start + step]
        for slot, sample in zip(buffer, part, strict=False):
            sample.jacobian(out=slot)
        jacobians = buffer[: len(part)].reshape(len(part) * factors, -1)
        products = (jacobians @ flat.T).double().reshape(len(part), factors, -1)
        given.append(products.square().sum(1) / 2)
        mixing = [sample.sharpening for sample in part if sample.sharpening is not None]
        if mixing:
            sharp.append((torch.stack(mixing).to(products).mT @ products).square().sum(1) / 2)
    return [torch.cat(given), torch.cat(sharp)] if sharp else [torch.cat(given)]
