"""What is kept of a matrix that was scored: one row of numbers, as a finished job; and the scale common to all rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..spec.scores import CommonScale
from .task import Estimate

HEADER = 3  # samples, effective samples, folds
PRIOR_SPREAD = 0.1  # of the common scale around 1, where the text says nothing


@dataclass(frozen=True, slots=True)
class ScoredMatrix:
    """Scores of one matrix under its legal choices, float64.

    Attributes:
        value: `[choices]`; `std_error` and `weight_error` alike.
        folds: `[folds, choices]`; `sharp_folds` alike, or without a fold: see `metrics._task.Estimate`.
        samples: texts that they are from.
        effective_samples: texts that carry them.
    """

    value: NDArray[np.float64]
    std_error: NDArray[np.float64]
    weight_error: NDArray[np.float64]
    folds: NDArray[np.float64]
    sharp_folds: NDArray[np.float64]
    samples: int
    effective_samples: float

    @staticmethod
    def of(estimate: Estimate, weight_error: Sequence[float]) -> ScoredMatrix:
        """Put an estimate beside the squared norms of the rounding errors."""
        return ScoredMatrix(
            estimate.value.numpy(),
            estimate.std_error.numpy(),
            np.array(weight_error),
            estimate.folds.numpy(),
            estimate.sharp_folds.numpy(),
            estimate.samples,
            estimate.effective_samples,
        )

    def row(self) -> list[float]:
        """One list of numbers; `from_row` reads it back."""
        parts = [self.value, self.std_error, self.weight_error, *self.folds, *self.sharp_folds]
        return [float(self.samples), self.effective_samples, float(len(self.folds)), *np.concatenate(parts).tolist()]

    @staticmethod
    def from_row(row: Sequence[float], num_choices: int) -> ScoredMatrix:
        """Read a row back."""
        parts = np.array(row[HEADER:]).reshape(-1, num_choices)
        end = 3 + int(row[2])
        return ScoredMatrix(parts[0], parts[1], parts[2], parts[3:end], parts[end:], int(row[0]), row[1])


def common_scale(rows: Sequence[ScoredMatrix]) -> CommonScale | None:
    """Return the factor that brings softened scores to KL's scale, shrunk towards 1 where the text hardly knows it.

    A factor carried by a handful of texts comes out too low more often than not: those that would raise it are rare.
    Measured plans lie near the softened scores themselves there, so 1 is what it is shrunk towards, by its own variance
    against `PRIOR_SPREAD` (James and Stein 1961). The stated error holds the whole way that it was shrunk.

    None where the scores are by KL's own curvature already, or all 0.
    """
    found = sharp_ratio(rows)
    if found is None:
        return None
    ratio, error = found
    weight = PRIOR_SPREAD**2 / (PRIOR_SPREAD**2 + error**2)
    shrunk = 1 + weight * (ratio - 1)
    return CommonScale(value=shrunk, std_error=((weight * error) ** 2 + (shrunk - ratio) ** 2) ** 0.5)


def sharp_ratio(rows: Sequence[ScoredMatrix]) -> tuple[float, float] | None:
    """Mean over matrices and choices of the score by KL's own curvature over the softened one; jackknife over folds."""
    if not rows or not all(len(row.sharp_folds) for row in rows):
        return None
    given = np.concatenate([row.folds for row in rows], axis=1)
    sharp = np.concatenate([row.sharp_folds for row in rows], axis=1)
    legal = given.mean(0) > 0
    if not legal.any():
        return None
    given, sharp = given[:, legal], sharp[:, legal]
    count = len(given)
    without = [
        float((np.delete(sharp, k, 0).sum(0) / np.delete(given, k, 0).sum(0).clip(np.finfo(float).tiny)).mean())
        for k in range(count)
    ]
    spread = float(np.var(without)) * (count - 1)
    return float((sharp.mean(0) / given.mean(0)).mean()), spread**0.5
