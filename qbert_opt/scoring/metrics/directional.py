"""Second-order KL along the actual quantization error: Ω(ΔW) = 1/(2N) Σ_n Σ_f (Σ_t gᵀ ΔW a)².

The Gauss-Newton form for softmax outputs, without labels. The sum over tokens is inside the square and the error keeps
its sign; both are lost when a norm is multiplied by a trace or an eigenvalue.

**Softmax temperature.** The curvature of KL is that at temperature 1, but on a confident model nearly all of it comes
from a few uncertain texts, and which of them the scoring set contains is chance. At temperature 2 all texts contribute,
and plans chosen by it have no larger loss, on confident models half the loss (`benchmarks/scoring/temperature.py`);
but its unit is not KL. Choices are therefore ranked at temperature 2, and all scores are then multiplied by one
common factor: the mean over matrices and choices of the score at 1 over that at 2, both from the same
back-propagations (`curvature.columns.sharpening`), shrunk towards 1 if the effective sample size is small
(`score_rows.common_scale`).
Outputs whose factors are random sign sums are scored at temperature 1.

With several classes a few uncertain texts carry most of the curvature: they are back-propagated for every column, the
others once (`curvature.columns`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from ...curvature.factors import SampleFactors
from ...models.batches import TokenBatch
from ...spec.activations import ActivationChoice
from ...spec.choices import Choice
from ...spec.score_parts import ActivationScores, CacheScores, TableScores
from ..activation_scores import activation_scores
from ..cache_scores import cache_scores
from ..matrix_factors import figures, gathered, sampled_estimates
from ..table_scores import table_scores
from ..task import Estimate, ScoringTask

LOSS_UNIT = "nats of KL(reference || quantized) per sample"
CONTAINS = "second-order loss of quantizing one matrix at a time"
NEEDS_LABELS = False
PAGEABLE = True
READS_FACTORS = True
GIVES_CURVATURE = True  # beside the scores, from the same factors
BAND_ROWS = 128  # rows of a gradient that are formed at a time
CACHED_BYTES = 1 << 24  # gradients of several samples that are formed at a time


def score(task: ScoringTask, pending: Sequence[int]) -> Iterator[tuple[int, Estimate]]:
    """Score matrices in groups that fit into memory; each group costs one factor pass.

    With `task.with_curvature`, the same factors also give each matrix's trace and top eigenvalue at temperature 1.

    Args:
        task: model, texts and quantization errors.
        pending: indices of the matrices to score.
    """
    watched = figures(task) if task.with_curvature else {}
    yield from sampled_estimates(task, pending, task.factors, both_losses, watched)
    for quantity in watched:
        task.curvature.extend(gathered(task, quantity).values())


def score_tables(task: ScoringTask, choices: Sequence[Choice]) -> TableScores | None:
    """Score the embedding tables by the same formula, in one more factor pass.

    Args:
        task: model and texts.
        choices: choices of the tables, all of one quantizer.

    Returns:
        Scores `[tables, choices]`; None if there is nothing to score.
    """
    return table_scores(task, choices, task.factors)


def score_activations(
    task: ScoringTask, fit: Sequence[TokenBatch], choices: Sequence[ActivationChoice]
) -> ActivationScores | None:
    """Score quantized inputs by the same formula, in one more factor pass.

    Args:
        task: model and texts.
        fit: calibration set, which fixes the static ranges.
        choices: choices of the inputs.

    Returns:
        Scores `[inputs, choices]`; None if there is nothing to score.
    """
    return activation_scores(task, fit, choices, task.factors)


def score_cache(task: ScoringTask) -> CacheScores | None:
    """Score each width of a decoder's cache of keys and values.

    Args:
        task: model and texts.
    """
    return cache_scores(task, task.factors)


def quadratic_forms(samples: Sequence[SampleFactors], perturbations: torch.Tensor) -> Estimate:
    """Return Ω and its standard error for each ΔW, at the temperature of the factors.

    Args:
        samples: factors of N samples of one matrix, in order of their numbers.
        perturbations: float32 `[choices, rows, columns]`.
    """
    return Estimate.over(*both_losses(samples, perturbations))


def both_losses(
    samples: Sequence[SampleFactors], perturbations: torch.Tensor, buffer_bytes: int = CACHED_BYTES
) -> list[torch.Tensor]:
    """Return ½ Σ_f (Σ_t gᵀ ΔW a)² for each sample and ΔW, a few gradients at a time.

    Args:
        samples: factors of N samples of one matrix.
        perturbations: ΔW, float32 `[choices, rows, columns]`.
        buffer_bytes: memory for gradients.

    Returns:
        float64 `[N, choices]`; if the factors are softened, also the same at temperature 1.
    """
    alike: dict[tuple[int, bool], list[int]] = {}
    for place, sample in enumerate(samples):
        alike.setdefault((len(sample.gradients), sample.sharpening is not None), []).append(place)
    shape = len(samples), len(perturbations)
    losses = [torch.empty(shape, dtype=torch.float64, device=perturbations.device) for _ in range(2)]
    for (_, softened_ones), places in alike.items():
        part = [samples[place] for place in places]
        products = _products(part, perturbations, min(buffer_bytes, CACHED_BYTES))
        losses[0][places] = products.square().sum(1) / 2
        if softened_ones:
            mixing = torch.stack([_sharpening(sample) for sample in part]).to(products)
            losses[1][places] = (mixing.mT @ products).square().sum(1) / 2
    return losses if all(softened_ones for _, softened_ones in alike) else losses[:1]


def _products(samples: Sequence[SampleFactors], perturbations: torch.Tensor, buffer_bytes: int) -> torch.Tensor:
    """Return Σ_t gᵀ ΔW a of samples with F factors each, float64 `[N, F, choices]`.

    Gradients are formed in bands of rows that are still in cache when they are multiplied by ΔW.
    """
    count, height, width = perturbations.shape
    factors = len(samples[0].gradients)
    band = min(height, BAND_ROWS)
    step = min(len(samples), max(1, buffer_bytes // (4 * factors * band * width)))
    buffer = perturbations.new_empty(
        step * factors * band * width
    )  # reused, since new pages cost more time than the products
    sums = torch.zeros(len(samples), factors, count, dtype=torch.float64, device=perturbations.device)
    for top in range(0, height, band):
        rows = slice(top, min(top + band, height))
        changes = perturbations[:, rows].reshape(count, -1)
        for start in range(0, len(samples), step):
            part = samples[start : start + step]
            size = len(part) * factors * changes.shape[1]
            formed = buffer[:size].view(len(part), factors, rows.stop - top, width)
            for slot, sample in zip(formed, part, strict=True):
                sample.jacobian(out=slot, rows=rows)
            dots = formed.view(len(part) * factors, -1) @ changes.T
            sums[start : start + step] += dots.view(len(part), factors, count)
    return sums


def _sharpening(sample: SampleFactors) -> torch.Tensor:
    if sample.sharpening is None:
        raise ValueError(f"sample {sample.index}: its factors are not softened")
    return sample.sharpening
