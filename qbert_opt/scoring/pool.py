"""Scoring texts drawn from a pool, uncertain ones more often, each weighted by the inverse of its probability.

A text's loss is roughly proportional to the trace u of its output Hessian, which a forward pass gives. Texts are drawn
with probability proportional to `0.8 u / Σu + 0.2 / N` and weighted by its inverse (Horvitz and Thompson 1952), so
every score is an unbiased estimate of that of the whole pool, with a fraction of the variance of an even draw of the
same size: a confident model's few uncertain texts are included reliably rather than by chance. The second term bounds
every weight by five times that of an even draw (Hesterberg 1995). The trace at temperature 1 works best for scores at
both temperatures (`benchmarks/allocation/README.md`).

The pool is first divided into the folds of cross-fitting and texts are drawn within each fold, so that the variance
between folds includes that of the pool. Within a fold the draw is systematic in the order of the traces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from ..curvature.sharing import hessian_traces
from ..data.texts import LabeledTexts
from ..errors import UsageError
from ..models.batches import TokenBatch
from ..models.loading import LoadedModel, tokenized
from ..models.outputs import Outputs, collect, rows_per_sample
from ..quantization.calibration import BATCH_SIZE, CalibrationPlan
from .folds import MIN_FOLD_SAMPLES, NUM_FOLDS

TRACE_SHARE = 0.8  # of a draw's probability that follows the traces
ROUNDING = 1e-12
Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Drawn:
    """Texts drawn from a pool; text i is in fold i mod 8, as in `folds.assigned_folds`.

    Attributes:
        places: of the texts in the pool.
        probabilities: probability of each text of being drawn, above 0 and at most 1.
        pool: number of texts in the pool.
        row_share: labelled rows per drawn text / labelled rows per text of the pool, since factors are of a mean over
            the rows of the drawn texts.
        reads: how often the texts of the pool use each row of each scored table, int64 `[rows]`, by module.
    """

    places: tuple[int, ...]
    probabilities: tuple[float, ...]
    pool: int
    row_share: float = 1.0
    reads: Mapping[str, torch.Tensor] = field(default_factory=dict, compare=False)

    @property
    def weights(self) -> tuple[float, ...]:
        """Factors on each text's loss, with which the mean of the losses estimates the mean over the pool."""
        scale = self.row_share * len(self.places) / self.pool
        return tuple(scale / probability for probability in self.probabilities)

    def variance(self, losses: torch.Tensor) -> torch.Tensor:
        """Return the variance of the mean of weighted losses: that of the draw, and that of the pool as a sample.

        The first is Hájek's approximation for samples of fixed size (1964), to which a text that is certain to be drawn
        adds nothing. If every text of the pool is drawn, only the usual variance of a mean remains.

        Args:
            losses: weighted, float64 `[N, columns]`.
        """
        count, mean = len(losses), losses.mean(0)
        likely = losses.new_tensor(self.probabilities)[:, None]
        free = 1 - likely
        centre = (free * losses).sum(0) / free.sum().clamp_min(torch.finfo(losses.dtype).tiny)
        draw = (free * (losses - centre).square()).sum(0) / (count * (count - 1))
        own = losses * likely * self.pool / count
        spread = ((own - mean).square() / likely).sum(0) / self.pool
        return draw + spread / (self.pool - 1)


def check_pool(loaded: LoadedModel, plan: CalibrationPlan, *, reads_factors: bool, with_curvature: bool) -> None:
    """Refuse a pool from which texts cannot be drawn.

    Args:
        loaded: the model.
        plan: sizes.
        reads_factors: whether the metric uses the back-propagated factors, which carry the weights.
        with_curvature: whether the curvature of each matrix is requested, which ignores the weights.

    Raises:
        UsageError: says what to do.
    """
    head, name = loaded.head, f"`num_pool` {plan.num_pool}"
    if not reads_factors:
        raise UsageError(f"{name}: this metric cannot weight texts. Use directional, or leave the pool out.")
    if not head.spec.loss.softmax:
        raise UsageError(f"{name}: for {head.kind} no text is more uncertain than another. Leave it out.")
    if head.kind in ("spans", "next_tokens"):
        raise UsageError(f"{name}: texts of {head.kind} are cut into windows, which are not drawn. Leave it out.")
    if plan.num_pool < plan.num_scored:
        raise UsageError(f"{name}: smaller than `num_scored` {plan.num_scored}, which are drawn from it.")
    if plan.num_scored < MIN_FOLD_SAMPLES * NUM_FOLDS:
        raise UsageError(f"{name}: needs `num_scored` of at least {MIN_FOLD_SAMPLES * NUM_FOLDS}, two for each fold.")
    if with_curvature:
        raise UsageError(f"{name}: `curvature` would count drawn texts without their weights. Leave one of them out.")


def drawn_from(
    loaded: LoadedModel,
    pool: LabeledTexts,
    batches: Sequence[TokenBatch],
    answers: Outputs,
    plan: CalibrationPlan,
    reads: Mapping[str, torch.Tensor],
) -> tuple[LabeledTexts, list[TokenBatch], Outputs, Drawn]:
    """Draw the scoring texts.

    Args:
        loaded: the model.
        pool: the texts to draw from.
        batches: of these texts.
        answers: to them.
        plan: how many texts to draw, and the seed.
        reads: how often they read each row of each table, by module.

    Returns:
        The drawn texts, their batches, the answers to them, and how they were drawn.
    """
    places, probabilities = draw(hessian_traces(answers).numpy(), plan.num_scored, plan.seed)
    texts = pool.take(places)
    chosen = tokenized(loaded, texts.texts, batch_size=BATCH_SIZE)
    share = rows_per_sample(loaded.head.kind, chosen) / rows_per_sample(loaded.head.kind, batches)
    drawn = Drawn(tuple(places), tuple(probabilities), len(pool), share, reads)
    return texts, chosen, collect(loaded.head, loaded.model, chosen), drawn


def draw(traces: Numbers, count: int, seed: int) -> tuple[list[int], list[float]]:
    """Draw texts within each fold of a pool.

    Args:
        traces: of each text's output Hessian, at least 0.
        count: texts to draw, at most as many as there are.
        seed: of the draw.

    Returns:
        Their places in the pool, so that the i-th is of fold i mod 8, and their probabilities.
    """
    folds = []
    for fold in range(NUM_FOLDS):
        inside = np.arange(fold, len(traces), NUM_FOLDS)
        taken = len(range(fold, count, NUM_FOLDS))
        likely = inclusion_probabilities(traces[inside], taken)
        start = float(np.random.default_rng((seed, fold)).random())
        order = np.argsort(traces[inside], kind="stable")
        chosen = np.sort(order[systematic(likely[order], start)])
        folds.append(list(zip(inside[chosen].tolist(), likely[chosen].tolist(), strict=True)))
    found = [folds[text % NUM_FOLDS][text // NUM_FOLDS] for text in range(count)]
    return [place for place, _ in found], [probability for _, probability in found]


def inclusion_probabilities(traces: Numbers, count: int) -> Numbers:
    """Return the probability with which each text is drawn; they sum to `count`, and none exceeds 1.

    Texts that would exceed 1 are certain to be drawn, and the others share the rest.

    Args:
        traces: of each text's output Hessian, at least 0.
        count: texts to draw, at most as many as there are.
    """
    even = np.full(len(traces), 1 / len(traces))
    share = even if not traces.sum() > 0 else TRACE_SHARE * traces / traces.sum() + (1 - TRACE_SHARE) * even
    found, free = np.ones(len(traces)), np.ones(len(traces), dtype=bool)
    while free.any():
        left = count - int((~free).sum())
        likely = left * share[free] / share[free].sum()
        certain = likely > 1 - ROUNDING
        if not certain.any():
            found[free] = likely
            break
        free[np.flatnonzero(free)[certain]] = False
    return found


def systematic(probabilities: Numbers, start: float) -> NDArray[np.intp]:
    """Return the texts at `start`, `start` + 1, … of the cumulative probabilities, each with its own probability.

    Args:
        probabilities: at most 1 each; their sum is the number of texts.
        start: from 0 to below 1.
    """
    certain = np.flatnonzero(probabilities >= 1)  # regardless of rounding in the sums
    free = np.flatnonzero(probabilities < 1)
    ends = probabilities[free].cumsum()
    points = start + np.arange(round(float(probabilities[free].sum())))
    places = np.minimum(np.searchsorted(ends, points, side="right"), len(free) - 1)
    return np.sort(np.concatenate([certain, free[places]]))
