"""Spectral density of a symmetric operator by stochastic Lanczos quadrature.

A Lanczos run from a random unit vector v gives a tridiagonal matrix whose eigenvalues θ, weighted by the squares of its
eigenvectors' first components, are the Gauss quadrature of the density that v sees: vᵀ f(H) v = Σ w f(θ) for all
polynomials f up to degree 2m - 1 (Golub & Welsch 1969). Over random v its mean is the density of H's eigenvalues
(Ghorbani et al. 2019; Yao et al. 2020, PyHessian).

No vector but the last two is kept. Rounding then makes copies of eigenvalues that have converged, which share one
weight: the quadrature stays right (Knizhnerman 1996; Chen, Trogdon & Ubaru 2021).
"""

from __future__ import annotations

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
    vector = np.random.default_rng(seed).standard_normal(operator.shape[0])
    vector /= np.linalg.norm(vector)
    before, beta = np.zeros_like(vector), 0.0
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(steps):
        product = operator @ vector
        alpha = float(product @ vector)
        diagonal.append(alpha)
        product -= alpha * vector
        product -= beta * before
        beta = float(np.linalg.norm(product))
        if beta <= BREAKDOWN * max(map(abs, diagonal + beside)):
            break
        beside.append(beta)
        before, vector = vector, product / beta
    nodes, vectors = eigh_tridiagonal(np.array(diagonal), np.array(beside[: len(diagonal) - 1]))
    return Quadrature(nodes, vectors[0] ** 2)
