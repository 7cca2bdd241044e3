"""The scores of one matrix as a row of numbers (a finished job), and the scale common to all rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..spec.choices import Choice
from ..spec.profiles import ModelProfile
from ..spec.score_arrays import Rows
from ..spec.score_parts import CommonScale
from .task import Estimate

HEADER = 3  # samples, effective samples, folds
PRIOR_SPREAD = 0.1  # prior standard deviation of the common scale around 1
FEW_TEXTS = 20  # with a smaller effective sample size, the relative standard error exceeds about a quarter


@dataclass(frozen=True, slots=True)
class ScoredMatrix:
    """Scores of one matrix under its legal choices, float64.

    Attributes:
        value: scores, `[choices]`.
        std_error: their standard errors, `[choices]`.
        weight_error: ‖ΔW‖², `[choices]`.
        folds: scores on each fold, `[folds, choices]`.
        sharp_folds: the same at temperature 1, or empty; see `task.Estimate`.
        samples: number of scored texts.
        effective_samples: effective sample size.
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
        """Combine an estimate with the squared norms of the quantization errors.

        Args:
            estimate: scores of one matrix.
            weight_error: ‖ΔW‖² of each choice.
        """
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
        """Return everything as one list of numbers; `from_row` reads it back."""
        parts = [self.value, self.std_error, self.weight_error, *self.folds, *self.sharp_folds]
        return [float(self.samples), self.effective_samples, float(len(self.folds)), *np.concatenate(parts).tolist()]

    @staticmethod
    def from_row(row: Sequence[float], num_choices: int) -> ScoredMatrix:
        """Parse what `row` returned.

        Args:
            row: the numbers.
            num_choices: number of the matrix's legal choices.
        """
        parts = np.array(row[HEADER:]).reshape(-1, num_choices)
        end = 3 + int(row[2])
        return ScoredMatrix(parts[0], parts[1], parts[2], parts[3:end], parts[end:], int(row[0]), row[1])


def common_scale(rows: Sequence[ScoredMatrix]) -> CommonScale | None:
    """Return the factor that converts softened scores to the scale of KL, shrunk towards 1 if it is uncertain.

    With a small effective sample size the factor is usually too low, because texts that would raise it are rare. The
    measured loss of plans is then close to the softened scores themselves, so the factor is shrunk towards 1, by its
    variance relative to `PRIOR_SPREAD` (James and Stein 1961). The standard error includes the full shrinkage.

    Args:
        rows: scores of all matrices.

    Returns:
        The factor; None if the scores are at temperature 1 already, or all 0.
    """
    estimate = sharp_ratio(rows)
    if estimate is None:
        return None
    ratio, error = estimate
    weight = PRIOR_SPREAD**2 / (PRIOR_SPREAD**2 + error**2)
    shrunk = 1 + weight * (ratio - 1)
    return CommonScale(value=shrunk, std_error=((weight * error) ** 2 + (shrunk - ratio) ** 2) ** 0.5)


def sharp_ratio(rows: Sequence[ScoredMatrix]) -> tuple[float, float] | None:
    """Return the mean ratio of scores at temperature 1 to softened scores, and its jackknife standard error.

    Args:
        rows: scores of all matrices.

    Returns:
        (ratio, standard error); None if the scores are at temperature 1 already, or all 0.
    """
    if not rows or not all(len(row.sharp_folds) for row in rows):
        return None
    softened = np.concatenate([row.folds for row in rows], axis=1)
    sharp = np.concatenate([row.sharp_folds for row in rows], axis=1)
    legal = softened.mean(0) > 0
    if not legal.any():
        return None
    softened, sharp = softened[:, legal], sharp[:, legal]
    count = len(softened)
    without = [
        float((np.delete(sharp, k, 0).sum(0) / np.delete(softened, k, 0).sum(0).clip(np.finfo(float).tiny)).mean())
        for k in range(count)
    ]
    spread = float(np.var(without)) * (count - 1)
    return float((sharp.mean(0) / softened.mean(0)).mean()), spread**0.5


def effective_sample_size(rows: Sequence[ScoredMatrix]) -> float | None:
    """Return the effective sample size of the scores, median over matrices; None for data-free scores.

    Args:
        rows: scores of all matrices.
    """
    sizes = [row.effective_samples for row in rows if row.effective_samples > 0]
    return float(np.median(sizes)) if sizes else None


def small_sample_warnings(rows: Sequence[ScoredMatrix]) -> list[str]:
    """Warn of a small effective sample size: a confident model has almost no loss on most texts.

    Args:
        rows: scores of all matrices.
    """
    effective, samples = effective_sample_size(rows), max(row.samples for row in rows)
    if effective is None or samples < 2 * FEW_TEXTS or effective >= FEW_TEXTS:
        return []
    return [
        f"effective sample size {effective:.0f} of {samples} scoring texts (the model is confident on the others): "
        "predicted losses are rough. Score more text."
    ]


def zero_score_warnings(names: Sequence[str], rows: Sequence[ScoredMatrix]) -> list[str]:
    """Warn of matrices that the loss does not depend on: every choice scores 0 although it has an error.

    Args:
        names: modules of the matrices.
        rows: their scores.
    """
    still = [name for name, row in zip(names, rows, strict=True) if row.weight_error.any() and not row.value.any()]
    return [
        f"{name}: gets no gradient: the outputs on this text do not depend on it, so its scores are 0."
        for name in still
    ]


def column_of(
    arrays: Sequence[NDArray[np.float64]],
    profile: ModelProfile,
    choices: Sequence[Choice],
    masks: Mapping[str, Mapping[str, str]],
) -> Rows:
    """Return one array of the table, with None for masked choices.

    Args:
        arrays: a number for each legal choice of each matrix.
        profile: the matrices.
        choices: all choices.
        masks: by matrix, the choices that are not legal.
    """
    table = []
    for row, matrix in zip(arrays, profile.matrices, strict=True):
        values = iter(row.tolist())
        table.append(tuple(None if c.name in masks[matrix.module] else next(values) for c in choices))
    return tuple(table)
