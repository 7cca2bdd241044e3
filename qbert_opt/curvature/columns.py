"""What is back-propagated: columns B of a square root of the outputs' Hessian, all of them, one drawn, or signs' sums.

For softmax outputs with probabilities p the output Hessian of cross-entropy, and of KL to the unperturbed model, is
`diag(p) - p pᵀ = B Bᵀ`. Back-propagating each column of B once gives every Gauss-Newton quadratic form of every matrix
(Schraudolph 2002, section 4).

**One column drawn.** Among several classes a sample's columns cost a back-propagation each, though a few uncertain
samples carry most of the curvature. Those get all columns (`carrying_samples`). Of each other sample one column k is
drawn with probability q_k and divided by √q_k, which stands for all of them: E[(b_kᵀ z)² / q_k] = Σ_k (b_kᵀ z)². The
columns are those in which the Hessians at the pass' temperature and at 1 are both diagonal, `Σ b_k b_kᵀ` and
`Σ λ_k b_k b_kᵀ`, so that the same back-propagation estimates both without bias; q is the mean of their shares in the
two traces.

**Sums by signs.** A sample with many outputs (words × tags, positions of a span, a vocabulary) has too many columns.
A few random combinations B s with signs s = ±1 stand for them: E[(sᵀ z)²] = Σ z², as in Hutchinson's trace (1989). All
matrices of a sample see the same draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..models.heads import KINDS
from ..models.heads.losses import SquaredDistance
from ..models.outputs import Head, Outputs

MAX_EXACT_FACTORS = 8
CARRYING_SHARE = 1 / 16  # of the samples, those with all columns
TEMPERATURE = 2.0  # of the softmax, where one is to make all samples count
SIGN_DRAWS = 4
GOLDEN = (5**0.5 - 1) / 2  # numbers n·GOLDEN mod 1 fill the unit interval evenly


@dataclass(frozen=True, slots=True)
class FactorPlan:
    """How the outputs' Hessian is taken apart.

    Attributes:
        temperature: of the softmax; see `output_factors`.
        carrying: samples of a classifier that get all columns, the others one that is drawn; None: all get all.
        draws: sign combinations, where columns are many.
        seed: of what is drawn.
    """

    temperature: float = 1.0
    carrying: frozenset[int] | None = None
    draws: int = SIGN_DRAWS
    seed: int = 0

    def count(self, head: Head, sample: int) -> int:
        """Back-propagations of one sample."""
        exact = exact_factors(head)
        if exact is None:
            return self.draws
        return 1 if self.draws_one(sample) and draws_columns(head) else exact

    def most(self, head: Head) -> int:
        """Back-propagations of the sample that has most."""
        return exact_factors(head) or self.draws

    def draws_one(self, sample: int) -> bool:
        """Whether one column stands for all of this sample's."""
        return self.carrying is not None and sample not in self.carrying


def output_factors(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Return float32 `[N, C, C - 1]`: columns B with `B Bᵀ = diag(p) - p pᵀ` for p = softmax(logits / temperature).

    The matrix has rank C - 1, so two classes need one back-propagation. Computed in float64.

    Args:
        logits: `[N, C]`.
        temperature: 1 is the curvature of KL at these samples; above 1 it is spread from the few uncertain samples to
            all of them.
    """
    roots, vectors = _roots(logits, temperature)
    return (vectors * roots[:, None, :]).to(logits.dtype)


def sharpening(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return float32 `[N, C - 1, C - 1]`: A with `B₁ = B A`, for B at `temperature` and B₁ at 1.

    Both span the same space. With A one set of back-propagations gives the quadratic form of KL itself beside the
    softened one. Directions whose softened curvature is below rounding are left out.
    """
    roots, vectors = _roots(logits, temperature)
    sharp_roots, sharp_vectors = _roots(logits, 1.0)
    kept = roots > 1e-9 * roots[:, -1:]
    inverse = torch.where(kept, 1 / roots.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
    return (inverse[:, :, None] * (vectors.mT @ sharp_vectors) * sharp_roots[:, None, :]).float()


def _shares(power: torch.Tensor) -> torch.Tensor:
    """Each row's parts of its sum; even parts of a row of zeros."""
    total = power.sum(1, keepdim=True)
    return torch.where(total > 0, power / total, 1 / power.shape[1])


def _roots(logits: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Square roots of the eigenvalues of the output Hessian but the smallest, `[N, C - 1]`, and their vectors."""
    p = (logits.detach().double() / temperature).softmax(-1)
    hessian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    values, vectors = torch.linalg.eigh(hessian)
    return values.clamp_min(0).sqrt()[:, 1:], vectors[:, :, 1:]


def softened(head: Head, carrying: frozenset[int] | None) -> FactorPlan:
    """Return the plan of softened curvature; at temperature 1 where sums by signs cannot tell both."""
    return FactorPlan() if exact_factors(head) is None else FactorPlan(TEMPERATURE, carrying)


def draws_columns(head: Head) -> bool:
    """Whether there are several columns to draw from; two classes have but one."""
    return head.spec.classifies and (exact_factors(head) or 0) > 1


def carrying_samples(head: Head, outputs: Outputs) -> frozenset[int] | None:
    """Return the samples that hold most of the output Hessians' traces, softened and not; None where no draw is made.

    Args:
        head: how the answers are read.
        outputs: of all samples.
    """
    if not draws_columns(head):
        return None
    traces = [_roots(outputs.values, temperature)[0].square().sum(1) for temperature in (TEMPERATURE, 1.0)]
    shares = _shares(torch.stack(traces)).sum(0)
    return frozenset(outputs.samples[shares.topk(math.ceil(CARRYING_SHARE * len(shares))).indices].tolist())


def drawn_factors(
    logits: torch.Tensor, temperature: float, samples: torch.Tensor, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return float32 `[N, C]`, a column drawn for each sample, and what its square is worth at temperature 1, `[N]`.

    Args:
        logits: `[N, C]`.
        temperature: of the columns.
        samples: int64 `[N]`, numbers of the samples; a sample's draw does not depend on its batch. Draws of samples
            that follow one another fill the unit interval evenly, which averages out sooner than chance.
        seed: of all draws.
    """
    mixing = sharpening(logits, temperature).double()
    rotation, sharp_roots, _ = torch.linalg.svd(mixing)
    columns = output_factors(logits.double(), temperature) @ rotation
    power = columns.square().sum(1)
    worth = sharp_roots.square()
    share = (_shares(power) + _shares(power * worth)) / 2
    start = float(np.random.default_rng(seed).random())
    point = (start + GOLDEN * samples.to(power)).frac()
    drawn = (share.cumsum(1) < point[:, None]).sum(1).clamp_max(share.shape[1] - 1)[:, None]
    root = share.gather(1, drawn).sqrt()
    column = columns.gather(2, drawn[:, None].expand(-1, columns.shape[1], 1))[:, :, 0] / root
    return column.to(logits.dtype), worth.gather(1, drawn)[:, 0].float()


def combined_factors(outputs: Outputs, temperature: float, seed: int, draw: int) -> torch.Tensor:
    """Return `[rows, columns]`: B s for the random signs of one draw, each sample's by its own number.

    Squared distances of embeddings are relative to the output's own squared length: B = √2 / ‖y‖; of regressions they
    are absolute: B = √2 (the loss is half the quadratic form).

    Args:
        outputs: what the model answered.
        temperature: of the softmax; means nothing to squared distances.
        seed: of all draws.
        draw: which of them.
    """
    values = outputs.values.detach().double()
    signs = _signs(outputs, seed, draw).to(values.device)
    loss = KINDS[outputs.kind].loss
    if isinstance(loss, SquaredDistance):
        return (loss.scale(outputs.values) * signs).to(outputs.values.dtype)
    p = (values / temperature).softmax(-1)
    root = p.sqrt()
    return (root * signs - p * (root * signs).sum(-1, keepdim=True)).to(outputs.values.dtype)


def output_columns(
    head: Head, outputs: Outputs, plan: FactorPlan
) -> tuple[Iterator[torch.Tensor], torch.Tensor | None]:
    """Return what is back-propagated, a few `[rows, columns]`, and the samples' sharpening `[N, F, F]`.

    All of these samples get all columns, or all one. The sharpening combines softened factors to those at temperature
    1; None where they are at 1, or sums by signs, which cannot tell.
    """
    if draws_columns(head) and plan.draws_one(int(outputs.samples[0])):
        column, worth = drawn_factors(outputs.values, plan.temperature, outputs.samples, plan.seed)
        return iter([column]), None if plan.temperature == 1.0 else worth.sqrt()[:, None, None]
    sharp = None
    if head.spec.classifies and exact_factors(head) is not None and plan.temperature != 1.0:
        sharp = sharpening(outputs.values, plan.temperature)
    return _cotangents(head, outputs, plan), sharp


def _cotangents(head: Head, outputs: Outputs, plan: FactorPlan) -> Iterator[torch.Tensor]:
    """Yield each column of B, or scaled sign combinations of them."""
    loss = head.spec.loss
    if exact_factors(head) is None:
        for draw in range(plan.draws):
            yield combined_factors(outputs, plan.temperature, plan.seed, draw) / plan.draws**0.5
    elif not isinstance(loss, SquaredDistance):
        yield from output_factors(outputs.values, plan.temperature).unbind(-1)
    else:
        scale = loss.scale(outputs.values).to(outputs.values.dtype)
        for column in range(outputs.values.shape[1]):
            yield scale * nn.functional.one_hot(torch.tensor(column, device=scale.device), outputs.values.shape[1])


def exact_factors(head: Head) -> int | None:
    """Number of all columns of B, or None where signs stand for them."""
    columns = head.spec.exact_columns(head.columns)
    return columns if 0 < columns <= MAX_EXACT_FACTORS else None


def _signs(outputs: Outputs, seed: int, draw: int) -> torch.Tensor:
    """Random ±1 `[rows, columns]`; a sample's do not depend on its batch, nor on how far its columns are padded."""
    samples, counts = outputs.samples.unique_consecutive(return_counts=True)
    parts = [
        np.random.default_rng((seed, draw, sample)).integers(0, 2, (outputs.values.shape[1], count), dtype=np.int8).T
        for sample, count in zip(samples.tolist(), counts.tolist(), strict=True)
    ]
    return torch.from_numpy(2.0 * np.concatenate(parts) - 1.0) if parts else outputs.values.detach().double()
