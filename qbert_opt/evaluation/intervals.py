"""Means, ratios and shares with their 95 % intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

BOOTSTRAPS = 2000
CONFIDENCE = 0.95
DRAWN_TOGETHER = 1 << 22  # samples drawn at a time, to bound memory


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % interval over samples."""

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
    generator = np.random.default_rng(seed)
    together = max(1, DRAWN_TOGETHER // len(above))
    ratios = []
    for start in range(0, BOOTSTRAPS, together):
        draws = generator.integers(0, len(above), (min(together, BOOTSTRAPS - start), len(above)))
        ratios.append(_ratio(above[draws].sum(1), below[draws].sum(1)))
    low, high = np.quantile(np.concatenate(ratios), [0.025, 0.975])
    return Interval(float(_ratio(above.sum(), below.sum())), float(low), float(high))


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
    margin = 1 - float(((1 - CONFIDENCE) / 2) ** (1 / counted.sum()))
    return Interval(0.0, 0.0, margin) if none else Interval(1.0, 1 - margin, 1.0)


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
    generator = np.random.default_rng(seed)
    together = max(1, DRAWN_TOGETHER // len(found))
    drawn = []
    for start in range(0, BOOTSTRAPS, together):
        draws = generator.integers(0, len(found), (min(together, BOOTSTRAPS - start), len(found)))
        drawn.append(_spearman(found[draws], given[draws]))
    low, high = np.nanquantile(np.concatenate(drawn), [0.025, 0.975])
    return Interval(float(value), float(low), float(high))


def _spearman(found: NDArray[np.float64], given: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson's correlation of the ranks of each row, `[draws]`; NaN where one side is constant."""
    ranks = [rankdata(side, axis=1) for side in (found, given)]
    a, b = (side - side.mean(1, keepdims=True) for side in ranks)
    lengths = np.sqrt(np.square(a).sum(1) * np.square(b).sum(1))
    correlation: NDArray[np.float64] = np.full(len(a), np.nan)
    np.divide((a * b).sum(1), lengths, out=correlation, where=lengths > 0)
    return correlation


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(above, below, out=np.zeros_like(above, dtype=np.float64), where=below > 0)
