"""Traces of all diagonal blocks of a symmetric operator at once (Hutchinson 1990).

For z of independent ±1, E[z_bᵀ (H z)_b] is the trace of block b: the contributions of other blocks are zero on average,
so one product over all parameters gives an unbiased estimate for every matrix.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator


def trace_draw(operator: LinearOperator, sizes: Sequence[int], seed: Sequence[int]) -> NDArray[np.float64]:
    """Return one unbiased estimate of the trace of each block, float64 `[blocks]`.

    Args:
        operator: symmetric, `[P, P]`.
        sizes: parameters of each block, in order; they sum to P.
        seed: of the signs.
    """
    signs = np.random.default_rng(seed).integers(0, 2, operator.shape[0]) * 2.0 - 1.0
    ends = np.cumsum(sizes)
    return np.add.reduceat(signs * (operator @ signs), np.concatenate([[0], ends[:-1]]))
