"""Partial pooling of scores: what single scores owe to chance is shrunk, so that many choices do no harm.

A solver picks what came out low, partly by chance of the scoring text, and the more choices a matrix has, the lower the
luckiest comes out (the winner's curse). Scores of one matrix share most of their noise, which favours none of its
choices; what misleads is the rest. So the logarithm of a score is split into effects of the matrix and of the choice, a
multiple of the logarithm of ‖ΔW‖², and a residual. The residual is shrunk by the share of its variance that is noise
(empirical Bayes: Efron and Morris 1975), and that noise is estimated by leaving out one fold of the text at a time (the
jackknife: Efron 1982, chapter 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .scores import ScoreTable

FEWEST_FOLDS = 4  # with fewer, the noise of a residual is hardly known
Table = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pooling:
    """What pooling needs besides the scores of a text.

    Attributes:
        rows: matrix of each pooled score, int [pooled].
        columns: choice of each pooled score, int [pooled].
        basis: orthonormal basis of what matrices, choices and ‖ΔW‖² explain, float64 [pooled, effects]; no rows if
            nothing is pooled.
    """

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    basis: Table

    @staticmethod
    def of(table: ScoreTable) -> Pooling:
        """Return the pooling of a table's matrices; embedding tables have too few choices to pool.

        Args:
            table: the scores, with folds.
        """
        folds, errors = np.array(table.fold_value, dtype=np.float64), np.array(table.weight_error, dtype=np.float64)
        if len(folds) < FEWEST_FOLDS:
            return Pooling(*(np.empty(0, dtype=np.intp),) * 2, np.empty((0, 0)))
        # a score of 0 has no logarithm: a matrix with one is left alone
        usable = (errors > 0) & (folds > 0).all(0)
        usable &= (usable | np.isnan(errors)).all(axis=1, keepdims=True)
        rows, columns = np.nonzero(usable)
        effects = np.zeros((len(rows), sum(usable.shape) + 1))
        effects[np.arange(len(rows)), rows] = 1.0
        effects[np.arange(len(rows)), len(usable) + columns] = 1.0
        effects[:, -1] = np.log(errors[rows, columns])
        left, sizes, _ = np.linalg.svd(effects, full_matrices=False)
        return Pooling(rows, columns, left[:, sizes > 1e-9 * sizes.max(initial=0.0)])

    def estimate(self, folds: Table, mean: Table | None = None) -> Table:
        """Return partially pooled scores.

        Args:
            folds: scores on each fold, float64 [folds, items, choices]; the matrices are the first items.
            mean: scores on all of this text, float64 [items, choices]; None takes the mean over the folds.

        Returns:
            float64 [items, choices]; items that are not pooled keep `mean`.
        """
        estimate = np.array(folds.mean(0) if mean is None else mean)
        if len(self.rows) <= self.basis.shape[1]:
            return estimate
        place = self.rows, self.columns
        logs = np.log(estimate[place])
        fit = self.basis @ (self.basis.T @ logs)
        residual = logs - fit
        noise = self._noise(folds[:, *place])
        spread = max(0.0, float((residual**2).mean() - noise.mean()))
        shrunk = residual * (spread / np.maximum(spread + noise, np.finfo(np.float64).tiny))
        estimate[place] = np.exp(fit + shrunk)
        return estimate

    def _noise(self, folds: Table) -> Table:
        """Return the variance of the noise in each residual, mean over the choices of a matrix, float64 [pooled]."""
        count = len(folds)
        logs = np.log((folds.sum(0) - folds) / (count - 1)).T
        residuals = logs - self.basis @ (self.basis.T @ logs)
        variance = (count - 1) * residuals.var(axis=1)
        sums = np.bincount(self.rows, variance) / np.maximum(np.bincount(self.rows), 1)
        return np.asarray(sums[self.rows], dtype=np.float64)


def pooled(table: ScoreTable) -> ScoreTable:
    """Return the same table with partially pooled scores of its matrices; the scores on the folds stay as they are.

    Args:
        table: the scores; without folds they are returned as they are.
    """
    pooling = Pooling.of(table)
    if not len(pooling.rows):
        return table
    value = pooling.estimate(np.array(table.fold_value, dtype=np.float64), table.values())
    rows = tuple(tuple(None if np.isnan(v) else float(v) for v in row) for row in value)
    return table.model_copy(update={"value": rows})
