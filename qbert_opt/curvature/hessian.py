"""The true Hessian of the loss as an operator, and its top eigenvalue.

Never formed: one product is a double backward (Pearlmutter 1994). Operators know only products; estimators take any
operator.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..models.batches import TokenBatch

BASES = (8, 24, 64)  # Krylov vectors: few for the usual gap, more where two eigenvalues are close


class HessianOperator(LinearOperator):
    """Hessian of mean cross-entropy by a few parameters, `[P, P]`, over labelled batches.

    The gradient's graph is built once and kept, so that a product is one backward pass through it.

    Attributes:
        num_products: Hessian-vector products made so far.
    """

    def __init__(
        self, model: nn.Module, parameters: Sequence[nn.Parameter], batches: Sequence[TokenBatch], labels: torch.Tensor
    ) -> None:
        self._parameters = list(parameters)
        self._sizes = [p.numel() for p in self._parameters]
        self._samples = sum(len(batch.indices) for batch in batches)
        self.num_products = 0
        super().__init__(np.dtype(np.float64), (sum(self._sizes), sum(self._sizes)))
        # the fused attention kernels have no second derivative on a CPU
        with sdpa_kernel(SDPBackend.MATH):
            self._gradients = [self._gradient(model, batch, labels) for batch in batches]

    def _gradient(self, model: nn.Module, batch: TokenBatch, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        target = labels[list(batch.indices)]
        loss = nn.functional.cross_entropy(model(**batch.inputs).logits, target, reduction="sum")
        return torch.autograd.grad(loss, self._parameters, create_graph=True)

    def _matvec(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        self.num_products += 1
        direction = torch.from_numpy(np.ascontiguousarray(vector.reshape(-1))).to(self._parameters[0].dtype)
        parts = [part.view_as(p) for part, p in zip(direction.split(self._sizes), self._parameters, strict=True)]
        total = torch.zeros_like(direction)
        for gradient in self._gradients:
            product = torch.autograd.grad(
                gradient, self._parameters, grad_outputs=parts, retain_graph=True, materialize_grads=True
            )
            total += torch.cat([p.reshape(-1) for p in product])
        return (total / self._samples).double().numpy()

    _rmatvec = _matvec  # symmetric


def top_eigenvalue(operator: LinearOperator, *, seed: int, tolerance: float = 1e-2, max_products: int = 200) -> float:
    """Return the eigenvalue of largest magnitude, sign kept, by Lanczos iteration (scipy's ARPACK).

    Args:
        operator: any symmetric operator.
        seed: of the starting vector.
        tolerance: relative accuracy; Q-BERT's power iteration stops at 1e-2.
        max_products: bound on operator products.

    Raises:
        ArpackNoConvergence: not converged with the largest basis.
    """
    start = np.random.default_rng(seed).standard_normal(operator.shape[0])
    for basis in BASES:
        size = min(basis, operator.shape[0])
        try:
            values = eigsh(
                operator, k=1, which="LM", v0=start, ncv=size, tol=tolerance, return_eigenvectors=False,
                maxiter=max(1, max_products // size),
            )  # fmt: skip
            return float(values[0])
        except ArpackNoConvergence:
            if basis == BASES[-1]:
                raise
    raise ValueError("no basis to try")


__all__ = ["ArpackNoConvergence", "HessianOperator", "top_eigenvalue"]
