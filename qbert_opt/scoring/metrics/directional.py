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
from torch import nn

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
BAND_WEIGHTS = 3 << 13  # weights of a gradient that are formed at a time, of each factor
MOST_TOGETHER = 64  # gradients that are formed at a time
LANES = 16  # float32 numbers of a vector register
Part = tuple[torch.Tensor, torch.Tensor]  # inputs and gradients of one factor of a sample
Stack = tuple[Sequence[int], torch.Tensor, torch.Tensor]  # places, inputs and gradients of several
BUFFER_BYTES = 1 << 27  # half for factors that are multiplied by one band of ΔW before the next, half for gradients


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
    samples: Sequence[SampleFactors], perturbations: torch.Tensor, buffer_bytes: int = BUFFER_BYTES
) -> list[torch.Tensor]:
    """Return ½ Σ_f (Σ_t gᵀ ΔW a)² for each sample and ΔW, a few gradients at a time.

    Args:
        samples: factors of N samples of one matrix.
        perturbations: ΔW, float32 `[choices, rows, columns]`.
        buffer_bytes: memory for copies of factors and for gradients.

    Returns:
        float64 `[N, choices]`; if the factors are softened, also the same at temperature 1.
    """
    sizes = [len(sample.gradients) for sample in samples]
    products = _products(samples, perturbations, buffer_bytes)
    owner = torch.repeat_interleave(torch.tensor(sizes)).to(products.device)
    losses = products.new_zeros(len(samples), len(perturbations))
    losses.index_add_(0, owner, products.square() / 2)
    if any(sample.sharpening is None for sample in samples):
        return [losses]
    sharpened = [
        (_sharpening(sample).to(part).mT @ part).square().sum(0) / 2
        for sample, part in zip(samples, products.split(sizes), strict=True)
    ]
    return [losses, torch.stack(sharpened)]


def _products(samples: Sequence[SampleFactors], perturbations: torch.Tensor, buffer_bytes: int) -> torch.Tensor:
    """Return Σ_t gᵀ ΔW a of every factor of the first sample, then of the second, …, float64 `[Σ F, choices]`.

    Gradients of some factors of similar length are formed in bands of rows that are still in cache when they are
    multiplied by ΔW. For short texts this second product takes most of the time. It is twice as fast if ΔW is stored by
    weight and padded to whole vectors of choices.
    """
    count, height, width = perturbations.shape
    parts = [part for sample in samples for part in _parts(sample)]
    sums = torch.zeros(len(parts), count, dtype=torch.float64, device=perturbations.device)
    order = sorted(range(len(parts)), key=lambda place: len(parts[place][0]))
    band = min(height, max(1, BAND_WEIGHTS // width))
    most = max(1, min(MOST_TOGETHER, buffer_bytes // 2 // (4 * band * width)))
    padded = perturbations.new_zeros(-(-count // LANES) * LANES, band * width)
    by_weight = torch.empty_like(padded.T, memory_format=torch.contiguous_format)
    formed = perturbations.new_empty(
        min(most, len(parts)) * band * width
    )  # new pages would cost more than the products
    for groups in _stacked(order, parts, most, buffer_bytes // 2):
        for top in range(0, height, band):
            rows = min(band, height - top)
            padded[:count, : rows * width] = perturbations[:, top : top + rows].flatten(1)
            by_weight.copy_(padded.T)
            for places, inputs, gradients in groups:
                jacobians = formed[: len(places) * rows * width].view(len(places), rows, width)
                torch.bmm(gradients[:, :, top : top + rows].transpose(1, 2), inputs, out=jacobians)
                sums[places] += (jacobians.flatten(1) @ by_weight[: rows * width])[:, :count]
    return sums


def _parts(sample: SampleFactors) -> list[Part]:
    """Inputs and gradients of each factor, without tokens on which no output depends.

    In the last layer of a classifier that reads its first token, this is every other token.
    """
    inputs, gradients = sample.inputs, sample.gradients
    if not bool((gradients[:, :, 0] != 0).any(0).all()):  # usually, the first of a token's numbers has a gradient
        reached = (gradients != 0).any(2).any(0)
        inputs, gradients = inputs[reached], gradients[:, reached]
    return [(inputs, gradient) for gradient in gradients]


def _stacked(order: Sequence[int], parts: Sequence[Part], most: int, buffer_bytes: int) -> Iterator[list[Stack]]:
    """Yield several groups of factors at a time that fit into memory, each padded with zeros to its longest.

    Args:
        order: places of the factors, the shortest first.
        parts: inputs `[T, columns]` and gradients `[T, rows]` of every factor.
        most: factors in a group.
        buffer_bytes: memory for them; a factor that needs more is a group of its own, which is not copied.

    Yields:
        Places, inputs `[factors, T, columns]` and gradients `[factors, T, rows]` of each group.
    """
    ready: list[Stack] = []
    group: list[int] = []
    used = 0
    for position, place in enumerate(order):
        group.append(place)
        following = order[position + 1 : position + 2]
        if following and len(group) < most and (len(group) + 1) * _bytes(parts[following[0]]) <= buffer_bytes:
            continue
        size = len(group) * _bytes(parts[place])  # the longest of them
        if ready and used + size > buffer_bytes:
            yield ready
            ready, used = [], 0
        longest = len(parts[place][0])
        inputs, gradients = ([_padded(parts[member][kind], longest) for member in group] for kind in (0, 1))
        one = len(group) == 1
        ready.append(
            (
                group,
                inputs[0][None] if one else torch.stack(inputs),
                gradients[0][None] if one else torch.stack(gradients),
            )
        )
        used += size
        group = []
    yield ready


def _bytes(part: Part) -> int:
    return 4 * (part[0].numel() + part[1].numel())


def _padded(tokens: torch.Tensor, length: int) -> torch.Tensor:
    """Append zeros to `[T, width]`."""
    missing = length - len(tokens)
    return nn.functional.pad(tokens, (0, 0, 0, missing)) if missing else tokens


def _sharpening(sample: SampleFactors) -> torch.Tensor:
    if sample.sharpening is None:
        raise ValueError(f"sample {sample.index}: its factors are not softened")
    return sample.sharpening
