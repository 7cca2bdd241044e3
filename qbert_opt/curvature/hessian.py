"""The true Hessian of the loss as an operator, and its top eigenvalue.

The Hessian is never formed: one product is a double backward pass (Pearlmutter 1994). Operators only provide products,
and estimators accept any operator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import nn

from ..models.batches import TokenBatch
from ..runtime.memory_budget import MemoryShares, saved_bytes
from .losses import BatchLoss

BASES = (8, 24, 64)  # Krylov vectors: few for a typical spectral gap, more if two eigenvalues are close


class HessianOperator(LinearOperator):  # type: ignore[misc]  # scipy has no types
    """Hessian of a mean loss with respect to some parameters, `[P, P]`, over batches.

    Attributes:
        num_products: Hessian-vector products so far.
        batch_rows: rows of each batch that the loss counts: its weight in the mean.
        on_product: called after each product.
    """

    def __init__(
        self,
        loss: BatchLoss,
        parameters: Sequence[nn.Parameter],
        batches: Sequence[TokenBatch],
        *,
        keep_graphs: bool = True,
    ) -> None:
        """Build the graph of each batch's gradient, so that a product is one backward pass through it.

        Args:
            loss: the loss.
            parameters: the parameters, P elements in total.
            batches: samples of the loss.
            keep_graphs: False rebuilds the graphs for each product: slower, but needs the memory of one batch only.
        """
        self._loss = loss
        self._parameters, self._batches = list(parameters), list(batches)
        self._sizes = [p.numel() for p in self._parameters]
        self.batch_rows = [loss.num_rows(batch) for batch in batches]
        self.num_products = 0
        self.on_product: Callable[[], None] = lambda: None
        super().__init__(np.dtype(np.float64), (sum(self._sizes), sum(self._sizes)))
        self._kept = [self.gradient(batch) for batch in self._batches] if keep_graphs else None

    def gradient(self, batch: TokenBatch) -> tuple[torch.Tensor, ...]:
        """Return the gradient of the summed loss of one batch, in the graph; zero where the loss ignores a parameter.

        Args:
            batch: samples of the loss.

        Returns:
            A tensor for each parameter, of its shape.
        """
        return torch.autograd.grad(
            self._loss.summed(batch), self._parameters, create_graph=True, materialize_grads=True
        )

    def mean_gradient(self) -> NDArray[np.float64]:
        """Gradient of the mean loss, float64 `[P]`."""
        total = np.zeros(self.shape[0])
        for index, batch in enumerate(self._batches):
            parts = self.gradient(batch) if self._kept is None else self._kept[index]
            total += torch.cat([part.detach().reshape(-1) for part in parts]).double().cpu().numpy()
        return total / max(1, sum(self.batch_rows))

    def products(self, vector: NDArray[np.float64]) -> Iterator[torch.Tensor]:
        """Yield H_b v for each batch's mean loss, in the type of the parameters, `[P]`.

        Args:
            vector: v, float64 `[P]`.
        """
        first = self._parameters[0]
        direction = torch.from_numpy(np.ascontiguousarray(vector.reshape(-1))).to(first.device, first.dtype)
        parts = [part.view_as(p) for part, p in zip(direction.split(self._sizes), self._parameters, strict=True)]
        for index, batch in enumerate(self._batches):
            gradient = self.gradient(batch) if self._kept is None else self._kept[index]
            yield torch.cat(self._second(gradient, parts)) / max(1, self.batch_rows[index])

    def quadratic_forms(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return vᵀ H_b v of each batch's mean loss, float64 `[batches]`.

        Args:
            vector: v, float64 `[P]`.
        """
        return np.array([float(product.double().cpu().numpy() @ vector) for product in self.products(vector)])

    def _second(self, gradient: tuple[torch.Tensor, ...], parts: list[torch.Tensor]) -> list[torch.Tensor]:
        pairs = [(g, part) for g, part in zip(gradient, parts, strict=True) if g.requires_grad]
        if not pairs:  # the loss does not depend on these parameters
            return [torch.zeros_like(part).reshape(-1) for part in parts]
        products = torch.autograd.grad(
            [g for g, _ in pairs], self._parameters, grad_outputs=[part for _, part in pairs],
            retain_graph=self._kept is not None, materialize_grads=True,
        )  # fmt: skip
        return [p.reshape(-1) for p in products]

    def _matvec(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        total = torch.zeros(self.shape[0], dtype=self._parameters[0].dtype, device=self._parameters[0].device)
        for rows, product in zip(self.batch_rows, self.products(vector), strict=True):
            total.add_(product, alpha=rows)
        mean: NDArray[np.float64] = (total / max(1, sum(self.batch_rows))).double().cpu().numpy()
        self.num_products += 1
        self.on_product()
        return mean

    _rmatvec = _matvec  # symmetric


def hessian_within(
    shares: MemoryShares, loss: BatchLoss, parameters: Sequence[nn.Parameter], batches: Sequence[TokenBatch]
) -> tuple[HessianOperator, list[int]]:
    """Return the Hessian over batches within a memory limit.

    Batches whose graph would not fit are split; graphs are kept between products if all of them fit.

    Args:
        shares: the memory limit.
        loss: the loss.
        parameters: the parameters, P elements in total.
        batches: samples of the loss.

    Returns:
        The operator, and for each of its batches the index of the batch in `batches` that it is part of.

    Raises:
        UsageError: the graph of one sample does not fit.
    """
    longest = max(batches, key=lambda batch: batch.mask.shape[1])
    probe = HessianOperator(loss, parameters, [], keep_graphs=False)
    one = next(longest.split(1))
    per_sample = saved_bytes(loss.model, lambda: probe.gradient(one))
    shares.refuse_less(shares.graph, per_sample, "the second-derivative graph of one sample")
    fitting = shares.graph // max(per_sample, 1)
    pieces = [(piece, index) for index, batch in enumerate(batches) for piece in batch.split(fitting)]
    keep = sum(len(piece.indices) for piece, _ in pieces) <= fitting
    operator = HessianOperator(loss, parameters, [piece for piece, _ in pieces], keep_graphs=keep)
    return operator, [index for _, index in pieces]


@dataclass(frozen=True, slots=True)
class EigenPair:
    """An eigenvalue and its eigenvector.

    Attributes:
        value: the eigenvalue, with its sign.
        vector: its unit eigenvector, float64 `[P]`; zero where the operator is.
    """

    value: float
    vector: NDArray[np.float64]


def top_eigenpairs(
    operator: LinearOperator,
    count: int,
    *,
    seed: int,
    tolerance: float = 1e-2,
    max_products: int = 200,
    max_basis: int = BASES[-1],
) -> list[EigenPair]:
    """Return the eigenpairs of largest magnitude, largest first, signs kept, by Lanczos iteration (scipy's ARPACK).

    Args:
        operator: any symmetric operator.
        count: how many, below the operator's side.
        seed: of the starting vector.
        tolerance: relative accuracy; Q-BERT's power iteration stops at 1e-2.
        max_products: largest number of operator products.
        max_basis: largest number of Krylov vectors that fit into memory.

    Raises:
        ArpackNoConvergence: no convergence with the largest basis.
    """
    if operator.shape[0] <= count + 1:  # too small for ARPACK
        dense = np.linalg.eigh(operator @ np.eye(operator.shape[0]))
        order = np.argsort(-np.abs(dense.eigenvalues))[:count]
        return [EigenPair(float(dense.eigenvalues[i]), dense.eigenvectors[:, i]) for i in order]
    start = operator @ np.random.default_rng(seed).standard_normal(operator.shape[0])
    if not start.any():  # the loss does not depend on these parameters: there is no Krylov space
        return [EigenPair(0.0, start) for _ in range(count)]
    bases = [basis for basis in BASES if basis <= max(max_basis, BASES[0])]
    for basis in bases:
        size = min(basis, operator.shape[0])
        try:
            values, vectors = eigsh(
                operator, k=count, which="LM", v0=start, ncv=size, tol=tolerance, maxiter=max(1, max_products // size)
            )
            order = np.argsort(-np.abs(values))
            return [EigenPair(float(values[i]), vectors[:, i]) for i in order]
        except ArpackNoConvergence:
            if basis == bases[-1]:
                raise
    raise ValueError("no basis to try")


def top_eigenpair(
    operator: LinearOperator,
    *,
    seed: int,
    tolerance: float = 1e-2,
    max_products: int = 200,
    max_basis: int = BASES[-1],
) -> EigenPair:
    """Return the eigenpair of largest magnitude, sign kept; see `top_eigenpairs`.

    Args:
        operator: any symmetric operator.
        seed: of the starting vector.
        tolerance: relative accuracy.
        max_products: largest number of operator products.
        max_basis: largest number of Krylov vectors that fit into memory.

    Raises:
        ArpackNoConvergence: no convergence with the largest basis.
    """
    [pair] = top_eigenpairs(operator, 1, seed=seed, tolerance=tolerance, max_products=max_products, max_basis=max_basis)
    return pair


def top_eigenvalue(operator: LinearOperator, *, seed: int, tolerance: float = 1e-2, max_products: int = 200) -> float:
    """Return the eigenvalue of largest magnitude, sign kept; see `top_eigenpairs`.

    Args:
        operator: any symmetric operator.
        seed: of the starting vector.
        tolerance: relative accuracy.
        max_products: largest number of operator products.

    Raises:
        ArpackNoConvergence: no convergence with the largest basis.
    """
    return top_eigenpair(operator, seed=seed, tolerance=tolerance, max_products=max_products).value


__all__ = [
    "ArpackNoConvergence",
    "EigenPair",
    "HessianOperator",
    "hessian_within",
    "top_eigenpair",
    "top_eigenpairs",
    "top_eigenvalue",
]
