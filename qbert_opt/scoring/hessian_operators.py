"""What the metrics of the true Hessian share: slices of the text, operators that fit into memory, their price."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from torch import nn

from ..curvature.hessian import BASES, ArpackNoConvergence, EigenPair, HessianOperator, hessian_within, top_eigenpair
from ..curvature.losses import LabelledLoss
from ..errors import UsageError
from ..models.batches import TokenBatch, joined, single_samples
from ..spec.scores import MatrixCurvature
from .task import Estimate, ScoringTask

NUM_SLICES = 10
VECTOR_BYTES = 8  # ARPACK works in float64


def text_slices(task: ScoringTask, metric: str, count: int = NUM_SLICES) -> list[TokenBatch]:
    """Cut the samples into disjoint slices that mix all lengths, so that their spread is that of the text.

    Raises:
        UsageError: fewer samples than slices.
    """
    singles = single_samples(task.batches)
    if len(singles) < count:
        raise UsageError(
            f"--metric {metric}: {len(singles)} samples cannot be cut into {count} slices. "
            f"Score at least {count}, --scoring-samples."
        )
    return [joined(singles[start::count]) for start in range(count)]


def hessian_operator(
    task: ScoringTask, parameters: Sequence[nn.Parameter], batches: Sequence[TokenBatch]
) -> tuple[HessianOperator, list[int]]:
    """Hessian of the training loss within the task's memory; see `hessian_within`."""
    loss = LabelledLoss(task.model, task.head, task.right_answers())
    return hessian_within(task.shares, loss, parameters, batches)


def settled_eigenpair(task: ScoringTask, operator: HessianOperator, what: str, seed: int) -> EigenPair:
    """Top eigenpair with as many Krylov vectors as there is memory for.

    Raises:
        UsageError: too little memory for the fewest vectors, or no convergence.
    """
    size = VECTOR_BYTES * operator.shape[0]
    task.shares.refuse_less(task.shares.factors, BASES[0] * size, f"{what}: {BASES[0]} vectors of its size")
    try:
        return top_eigenpair(operator, seed=seed, max_basis=task.shares.factors // size)
    except ArpackNoConvergence:
        raise UsageError(
            f"{what}: its top eigenvalue did not settle within {operator.num_products} Hessian products: others are as "
            "large. Raise --memory-limit, or use --metric gauss-newton-eigenvalue, which does not iterate."
        ) from None


def priced_by(
    task: ScoringTask, pending: Sequence[int], found: Mapping[int, MatrixCurvature], half: float = 0.5
) -> Iterator[tuple[int, Estimate]]:
    """Score by |curvature| × ‖ΔW‖²: half of it where the curvature is that of a loss.

    The sign is kept in the record, not in the price: a negative score would reward errors.
    """
    task.curvature.extend(found[index] for index in sorted(found))
    warn_of_negative(task, found)
    for index in pending:
        curvature = found[index]
        squared = task.squared_errors(task.profile.matrices[index])
        scale = half / (task.profile.matrices[index].elements if curvature.quantity.startswith("trace") else 1)
        yield (
            index,
            Estimate(scale * abs(curvature.value) * squared, scale * curvature.std_error * squared, task.num_samples),
        )


def warn_of_negative(task: ScoringTask, found: Mapping[int, MatrixCurvature]) -> None:
    """Say which matrices' curvature is negative beyond its standard error: Q-BERT's finding on SQuAD."""
    names = [c.module for c in found.values() if c.value < -2 * c.std_error]
    if names:
        say_negative(task, next(iter(found.values())).quantity, names, f"{len(found)} matrices")


def say_negative(task: ScoringTask, quantity: str, names: Sequence[str], of: str) -> None:
    """Warn that a curvature is negative at some parts of the model."""
    task.warnings.append(
        f"negative {quantity} at {len(names)} of {of} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''}): the "
        "model has not converged on this loss; their size is used, their sign is kept in the table. See 'qbert-opt "
        "diagnose'."
    )


def spread(values: Sequence[float]) -> float:
    """Standard error of the mean of independent values."""
    return float(np.std(values, ddof=1)) / math.sqrt(len(values))


def omega(eigenvalues: Sequence[float]) -> float:
    """Q-BERT's Ω of eigenvalues over slices: |mean| + standard deviation."""
    return abs(float(np.mean(eigenvalues))) + float(np.std(eigenvalues))


def omega_error(eigenvalues: Sequence[float]) -> float:
    """Standard error of Ω over independent slices, by the jackknife."""
    count = len(eigenvalues)
    without = [omega([*eigenvalues[:k], *eigenvalues[k + 1 :]]) for k in range(count)]
    return float(((count - 1) * np.var(without)) ** 0.5)
