"""Means, ratios and shares with their 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BOOTSTRAPS = 2000
CONFIDENCE = 0.95
DRAWN_TOGETHER = 1 << 22  # samples drawn at a time, to bound memory


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % interval over samples.

    Attributes:
        value: the figure.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    value: float
    low: float
    high: float


def interval(samples: NDArray[np.float64], *, seed: int = 0) -> Interval:
    """Return the mean of samples with its 95 % percentile bootstrap interval.

    Args:
        samples: `[N]`.
        seed: of the draws.
    """
    return ratio_interval(samples, np.ones(len(samples)), seed=seed)


def ratio_interval(above: NDArray[np.float64], below: NDArray[np.float64], *, seed: int = 0) -> Interval:
    """Return the ratio of two sums over samples with its 95 % percentile bootstrap interval.

    A ratio is 0 if its denominator is 0.

    Args:
        above: each sample's contribution to the numerator, `[N]`.
        below: each sample's contribution to the denominator, `[N]`.
        seed: of the draws.
    """
    return _percentiles(
        _ratio(above.sum(), below.sum()),
        len(above),
        seed,
        lambda draws: _ratio(above[draws].sum(1), below[draws].sum(1)),
    )


def drop_interval(
    before: tuple[NDArray[np.float64], NDArray[np.float64]],
    after: tuple[NDArray[np.float64], NDArray[np.float64]],
    *,
    seed: int = 0,
) -> Interval:
    """Return the decrease of a ratio of two sums, with its 95 % percentile bootstrap interval.

    Both ratios are of the same samples, which are drawn in pairs (Efron and Tibshirani 1993, section 8.3), so that
    samples that are hard for both add no noise. A ratio is 0 if its denominator is 0. If no sample differs, the
    bootstrap would claim certainty; the interval is then the share of samples that could differ unseen, as in
    `share_interval`.

    Args:
        before: each sample's contributions to numerator and denominator, `[N]` each.
        after: the same afterwards.
        seed: of the draws.
    """

    def drops(draws: NDArray[np.int64]) -> NDArray[np.float64]:
        was, now = (_ratio(above[draws].sum(-1), below[draws].sum(-1)) for above, below in (before, after))
        return was - now

    num_samples = len(before[0])
    if np.array_equal(before, after):
        margin = _unseen(num_samples)
        return Interval(0.0, -margin, margin)
    return _percentiles(drops(np.arange(num_samples)), num_samples, seed, drops)


def share_interval(above: NDArray[np.float64], below: NDArray[np.float64], *, seed: int = 0) -> Interval:
    """Return a share, a ratio between 0 and 1 such as accuracy, with its 95 % interval: bootstrap or exact.

    Where every sample has a share of 0, or every one a share of 1, all draws are the same and the bootstrap would
    claim certainty. The interval is then the exact one of as many samples (Clopper and Pearson 1934), 0.025 to the
    power 1/N away from certainty. It holds for shares within samples too: their mean is at most the chance of any.

    Args:
        above: each sample's contribution to the numerator, `[N]`, at most that to the denominator.
        below: each sample's contribution to the denominator, `[N]`.
        seed: of the draws.
    """
    counted = below > 0
    none, every = not above[counted].any(), bool(np.array_equal(above[counted], below[counted]))
    if not counted.any() or not (none or every):
        return ratio_interval(above, below, seed=seed)
    margin = _unseen(int(counted.sum()))
    return Interval(0.0, 0.0, margin) if none else Interval(1.0, 1 - margin, 1.0)


def exponential(of: Interval) -> Interval:
    """Return the exponential of a figure and of its interval, such as the perplexity of a cross-entropy.

    Args:
        of: the figure, for example in nats.
    """
    return Interval(math.exp(of.value), math.exp(of.low), math.exp(of.high))


def spearman_interval(found: NDArray[np.float64], given: NDArray[np.float64], *, seed: int = 0) -> Interval | None:
    """Return Spearman's rank correlation with its 95 % percentile bootstrap interval; equal numbers share their rank.

    Draws in which all numbers of one side are the same have no correlation and are left out.

    Args:
        found: numbers of one side, `[N]`.
        given: numbers of the other side, `[N]`.
        seed: of the draws.

    Returns:
        None if all numbers of one side are the same.
    """
    [value] = _spearman(found[None], given[None])
    if np.isnan(value):
        return None
    return _percentiles(value, len(found), seed, lambda draws: _spearman(found[draws], given[draws]))


def _unseen(num_samples: int) -> float:
    """Return the largest share that samples without a single case leave open (Clopper and Pearson 1934)."""
    return 1 - float(((1 - CONFIDENCE) / 2) ** (1 / num_samples))


def _percentiles(
    value: float | NDArray[np.float64],
    num_samples: int,
    seed: int,
    statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]],
) -> Interval:
    """Return a figure with the middle 95 % of what draws of its samples give; NaNs are left out.

    Args:
        value: of all samples.
        num_samples: number of samples.
        seed: of the draws.
        statistic: the figure of each row of `[draws, num_samples]` indices.
    """
    generator = np.random.default_rng(seed)
    together = max(1, DRAWN_TOGETHER // num_samples)
    drawn = [
        statistic(generator.integers(0, num_samples, (min(together, BOOTSTRAPS - start), num_samples)))
        for start in range(0, BOOTSTRAPS, together)
    ]
    low, high = np.nanquantile(np.concatenate(drawn), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(value), float(low), float(high))


def _spearman(found: NDArray[np.float64], given: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson's correlation of the ranks of each row, `[draws]`; NaN where one side is constant."""
    from scipy.stats import rankdata  # takes a second to import, and only sentence similarity is ranked

    ranks = [rankdata(side, axis=1) for side in (found, given)]
    a, b = (side - side.mean(1, keepdims=True) for side in ranks)
    lengths = np.sqrt(np.square(a).sum(1) * np.square(b).sum(1))
    correlation: NDArray[np.float64] = np.full(len(a), np.nan)
    np.divide((a * b).sum(1), lengths, out=correlation, where=lengths > 0)
    return correlation


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(above, below, out=np.zeros_like(above, dtype=np.float64), where=below > 0)
