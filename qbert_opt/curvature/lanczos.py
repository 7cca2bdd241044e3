"""Spectral density of a symmetric operator by stochastic Lanczos quadrature.

A Lanczos run from a random unit vector v gives a tridiagonal matrix whose eigenvalues θ, weighted by the squares of its
eigenvectors' first components, form the Gauss quadrature of v's spectral measure: vᵀ f(H) v = Σ w f(θ) for all
polynomials f up to degree 2m - 1 (Golub & Welsch 1969). Its mean over random v is the density of H's eigenvalues
(Ghorbani et al. 2019; Yao et al. 2020, PyHessian).

Only the last two vectors are kept. Rounding then produces copies of converged eigenvalues, which share their weight, so
the quadrature stays accurate (Knizhnerman 1996; Chen, Trogdon & Ubaru 2021).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.linalg import LinearOperator

BREAKDOWN = 1e-10  # relative to the operator's size; anything smaller is rounding error


@dataclass(frozen=True, slots=True)
class Quadrature:
    """Gauss quadrature of the spectral density from one random vector.

    Attributes:
        nodes: float64 `[steps]`, ascending; each lies within the spectrum, so none is below the smallest eigenvalue.
        weights: float64 `[steps]`, sum 1.
    """

    nodes: NDArray[np.float64]
    weights: NDArray[np.float64]


def quadrature(operator: LinearOperator, steps: int, seed: int) -> Quadrature:
    """Run Lanczos from a random unit vector; stops early if the Krylov space is exhausted.

    Args:
        operator: symmetric, `[P, P]`.
        steps: operator products.
        seed: of the vector.
    """
    run = [(alpha, beta) for _, alpha, beta in _recurrence(operator, steps, seed)]
    nodes, vectors = _eigen(run)
    return Quadrature(nodes, vectors[0] ** 2)


def least_vector(operator: LinearOperator, steps: int, seed: int) -> NDArray[np.float64]:
    """Return the unit vector, float64 `[P]`, whose Rayleigh quotient is the smallest node of `quadrature`.

    It approximates the eigenvector of the smallest eigenvalue. The Lanczos run is repeated, which avoids storing its
    vectors.

    Args:
        operator: symmetric, `[P, P]`.
        steps: operator products, as in `quadrature`.
        seed: of the starting vector, as in `quadrature`.
    """
    coefficients = _eigen([(alpha, beta) for _, alpha, beta in _recurrence(operator, steps, seed)])[1][:, 0]
    combined = np.zeros(operator.shape[0])
    for coefficient, (vector, _, _) in zip(coefficients, _recurrence(operator, len(coefficients), seed), strict=True):
        combined += coefficient * vector
    combined /= np.linalg.norm(combined)
    return combined


def _recurrence(operator: LinearOperator, steps: int, seed: int) -> Iterator[tuple[NDArray[np.float64], float, float]]:
    """Yield each Lanczos vector with its diagonal and off-diagonal entry; the last off-diagonal entry is not used."""
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
    diagonal, off_diagonal = np.array(run).T
    values, vectors = eigh_tridiagonal(diagonal, off_diagonal[:-1])
    return values, vectors
