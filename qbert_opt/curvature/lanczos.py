"""Spectral density of a symmetric operator by stochastic Lanczos quadrature.

A Lanczos run from a random unit vector v gives a tridiagonal matrix whose eigenvalues θ, weighted by the squares of its
eigenvectors' first components, are the Gauss quadrature of the density that v sees: vᵀ f(H) v = Σ w f(θ) for all
polynomials f up to degree 2m - 1 (Golub & Welsch 1969). Over random v its mean is the density of H's eigenvalues
(Ghorbani et al. 2019; Yao et al. 2020, PyHessian).

No vector but the last two is kept. Rounding then makes copies of eigenvalues that have converged, which share one
weight: the quadrature stays right (Knizhnerman 1996; Chen, Trogdon & Ubaru 2021).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.linalg import LinearOperator

BREAKDOWN = 1e-10  # of the operator's size: what is left of a direction is rounding


@dataclass(frozen=True, slots=True)
class Quadrature:
    """What one random vector sees of a spectrum.

    Attributes:
        nodes: float64 `[steps]`, ascending; each lies within the spectrum, so the least is at or above the least
            eigenvalue.
        weights: float64 `[steps]`, sum 1.
    """

    nodes: NDArray[np.float64]
    weights: NDArray[np.float64]


def quadrature(operator: LinearOperator, steps: int, seed: int) -> Quadrature:
    """Run Lanczos from a random unit vector; ends early where the vector's Krylov space does.

    Args:
        operator: symmetric, `[P, P]`.
        steps: operator products.
        seed: of the vector.
    """
    run = [(alpha, beta) for _, alpha, beta in _recurrence(operator, steps, seed)]
    nodes, vectors = _eigen(run)
    return Quadrature(nodes, vectors[0] ** 2)


def least_vector(operator: LinearOperator, steps: int, seed: int) -> NDArray[np.float64]:
    """Return the unit vector, float64 `[P]`, whose Rayleigh quotient is the least node of `quadrature`.

    It is the least eigenvector as far as the run has found it. The run is made a second time instead of keeping its
    vectors.
    """
    coefficients = _eigen([(alpha, beta) for _, alpha, beta in _recurrence(operator, steps, seed)])[1][:, 0]
    found = np.zeros(operator.shape[0])
    for coefficient, (vector, _, _) in zip(coefficients, _recurrence(operator, len(coefficients), seed), strict=True):
        found += coefficient * vector
    found /= np.linalg.norm(found)
    return found


def _recurrence(operator: LinearOperator, steps: int, seed: int) -> Iterator[tuple[NDArray[np.float64], float, float]]:
    """Give each Lanczos vector with its diagonal entry and the entry beside it, the last one's meaning nothing."""
    vector = np.random.default_rng(seed).standard_normal(operator.shape[0])
    vector /= np.linalg.norm(vector)
    before, beta, size = np.zeros_like(vector), 0.0, 0.0
    for _ in range(steps):
        product = operator @ vector
        alpha = float(product @ vector)
        product -= alpha * vector
        product -= beta * before
        beta = float(np.linalg.norm(product))
        size = max(size, abs(alpha), beta)
        yield vector, alpha, beta
        if beta <= BREAKDOWN * size:
            return
        before, vector = vector, product / beta


def _eigen(run: Sequence[tuple[float, float]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvalues, ascending, and eigenvectors of the tridiagonal matrix of a run."""
    diagonal, beside = np.array(run).T
    values, vectors = eigh_tridiagonal(diagonal, beside[:-1])
    return values, vectors
