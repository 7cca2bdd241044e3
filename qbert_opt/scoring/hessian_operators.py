"""Shared by the metrics of the true Hessian: slices of the text, operators that fit in memory, and scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from torch import nn

from ..curvature.hessian import BASES, ArpackNoConvergence, EigenPair, HessianOperator, hessian_within, top_eigenpair
from ..curvature.losses import BatchLoss, LabelledLoss, OutputDistance
from ..errors import UsageError
from ..models.batches import TokenBatch, joined, single_samples
from ..spec.score_parts import MatrixCurvature
from .task import Estimate, ScoringTask

NUM_SLICES = 10
VECTOR_BYTES = 8  # ARPACK works in float64


def text_slices(task: ScoringTask, metric: str, count: int = NUM_SLICES) -> list[TokenBatch]:
    """Split the samples into disjoint slices of mixed lengths, so that their spread reflects that of the text.

    Args:
        task: model and scoring texts.
        metric: name of the metric, for the message.
        count: number of slices.

    Raises:
        UsageError: fewer samples than slices.
    """
    singles = single_samples(task.batches)
    if len(singles) < count:
        raise UsageError(
            f"`metric` {metric}: {len(singles)} samples cannot be split into {count} slices. "
            f"Score at least {count}, `num_scored`."
        )
    return [joined(singles[start::count]) for start in range(count)]


def hessian_operator(
    task: ScoringTask, parameters: Sequence[nn.Parameter], batches: Sequence[TokenBatch]
) -> tuple[HessianOperator, list[int]]:
    """Return the Hessian of the loss as an operator that fits into memory; see `hessian_within`.

    The loss is cross-entropy with the labels. For embeddings and numbers, whose training loss is not known, it is the
    distance to the float model's own outputs.

    Args:
        task: model, labels and memory.
        parameters: the weights to differentiate with respect to.
        batches: the text of the loss.

    Returns:
        The operator, and for each of its batches the index of the batch in `batches` that it is a piece of.
    """
    loss: BatchLoss = OutputDistance(task.model, task.head)
    if task.head.spec.loss.softmax:
        loss = LabelledLoss(task.model, task.head, task.right_answers())
    return hessian_within(task.shares, loss, parameters, batches)


def settled_eigenpair(task: ScoringTask, operator: HessianOperator, what: str, seed: int) -> EigenPair:
    """Return the top eigenpair, computed with as many Krylov vectors as fit into memory.

    Args:
        task: memory.
        operator: the Hessian.
        what: name of the layer or matrix, for error messages.
        seed: of the start vector.

    Raises:
        UsageError: the minimum number of vectors does not fit into memory, or there is no convergence.
    """
    size = VECTOR_BYTES * operator.shape[0]
    task.shares.refuse_less(task.shares.factors, BASES[0] * size, f"{what}: {BASES[0]} vectors of its size")
    try:
        return top_eigenpair(operator, seed=seed, max_basis=task.shares.factors // size)
    except ArpackNoConvergence:
        raise UsageError(
            f"{what}: its top eigenvalue did not converge within {operator.num_products} Hessian products: others are "
            "as large. Raise `memory_limit_bytes`, or use `metric` gauss-newton-eigenvalue, which does not iterate."
        ) from None


def priced_by(
    task: ScoringTask, pending: Sequence[int], curvatures: Mapping[int, MatrixCurvature], half: float = 0.5
) -> Iterator[tuple[int, Estimate]]:
    """Score by |curvature| × ‖ΔW‖², times ½ if the curvature is that of a loss.

    The sign is recorded but not used in the score, since a negative score would reward errors.

    Args:
        task: model, texts and quantization errors.
        pending: indices of the matrices to score.
        curvatures: curvature of every matrix, by index.
        half: factor on the scores.
    """
    task.curvature.extend(curvatures[index] for index in sorted(curvatures))
    warn_of_negative(task, curvatures)
    for index in pending:
        curvature = curvatures[index]
        squared = task.squared_errors(task.profile.matrices[index])
        scale = half / (task.profile.matrices[index].elements if curvature.quantity.startswith("trace") else 1)
        yield (
            index,
            Estimate(scale * abs(curvature.value) * squared, scale * curvature.std_error * squared, task.num_samples),
        )


def warn_of_negative(task: ScoringTask, curvatures: Mapping[int, MatrixCurvature]) -> None:
    """Warn of matrices whose curvature is negative beyond its standard error, as Q-BERT found on SQuAD.

    Args:
        task: receives the warning.
        curvatures: curvature of every matrix, by index.
    """
    names = [c.module for c in curvatures.values() if c.value < -2 * c.std_error]
    if names:
        say_negative(task, next(iter(curvatures.values())).quantity, names, f"{len(curvatures)} matrices")


def say_negative(task: ScoringTask, quantity: str, names: Sequence[str], of: str) -> None:
    """Add a warning that the curvature is negative in some parts of the model.

    Args:
        task: receives the warning.
        quantity: the negative quantity, for example `trace of the Hessian`.
        names: the matrices or layers where it is negative.
        of: number and kind of all parts, for example `36 matrices`.
    """
    task.warnings.append(
        f"negative {quantity} at {len(names)} of {of} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''}): the "
        "model has not converged on this loss. Scores use the magnitude; the sign is kept in the table. See 'qbert-opt "
        "diagnose'."
    )


def spread(values: Sequence[float]) -> float:
    """Return the standard error of the mean.

    Args:
        values: independent values, at least two.
    """
    return float(np.std(values, ddof=1)) / math.sqrt(len(values))


def omega(eigenvalues: Sequence[float]) -> float:
    """Return Q-BERT's Ω = |mean λ| + std λ (Shen et al. 2020, equation 1).

    Args:
        eigenvalues: top eigenvalue λ on each slice of the data.
    """
    return abs(float(np.mean(eigenvalues))) + float(np.std(eigenvalues))


def omega_error(eigenvalues: Sequence[float]) -> float:
    """Return the jackknife standard error of Ω.

    Args:
        eigenvalues: top eigenvalue on each slice of the data; the slices are independent.
    """
    count = len(eigenvalues)
    without = [omega([*eigenvalues[:k], *eigenvalues[k + 1 :]]) for k in range(count)]
    return float(((count - 1) * np.var(without)) ** 0.5)
