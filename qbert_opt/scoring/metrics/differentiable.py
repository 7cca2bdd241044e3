"""Search by gradient, as in AQ-BERT (Zhao et al. 2021): −log of learned probabilities of each matrix's choices.

A matrix is the mixture W + Σ_k O_k ΔW_k of its rounded versions, with weights O = softmax((log p + g) / t) for Gumbel
noise g and p = softmax(β) (Jang et al. 2017). β of all matrices is learned together by gradient descent on

    KL(reference || mixture) / KL̄  +  λ L(E[bytes]),   E[bytes] = Σ_m Σ_k p_mk bytes_mk,
    L(b) = log b above the budget, −log b below it, 0 within `SLACK` of it,

over the scoring texts. KL̄ is the mean KL of the steps so far, which makes rate and λ independent of the model; the
temperature t falls geometrically. AQ-BERT searches per sub-group, uses labels, alternates with updates of the weights
and trains the found model from scratch; here weights are what the quantizer gives, choices belong to matrices, and
the solver makes the plan.

β is the sum of two parts, from the gradients of KL and of the size. The size part only keeps the mixtures at the budget
while KL is learned. The scores are −log softmax of the KL part alone, because the solver knows sizes exactly; with both
parts, a plan whose most probable choices are small would leave bytes unspent.

All matrices are learned together, so with several processes each does the whole work and gets the same scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ...errors import InfeasibleError
from ...models.batches import TokenBatch
from ...models.heads import KINDS
from ...models.layers import matrix_of
from ...models.outputs import answers
from ..task import Estimate, ScoringTask

LOSS_UNIT = "nats of −log p(choice), learned at one budget (not a loss; ranks only)"
CONTAINS = "probabilities of choices, learned by gradient on mixtures of all matrices' rounded versions"
NEEDS_LABELS = False
NEEDS_BUDGET = True  # which the mixtures are held at
PASSES = 8  # over the scoring texts
RATE = 4.0  # of gradient descent on β
SIZE_WEIGHT = 10.0  # λ: KL falls as 4^-bits, by b log 4 of itself for each log unit of size at b bits; above that
SLACK = 0.02  # of the budget, around it
FIRST_TEMPERATURE, LAST_TEMPERATURE = 1.0, 0.3


@dataclass(frozen=True, slots=True)
class Mixture:
    """The rounded versions of a matrix.

    Attributes:
        layer: the model's layer.
        original: its matrix, float32 `[rows, columns]`.
        errors: ΔW of each choice, float32 `[choices, elements]`.
        sizes: bytes of each choice, float64 `[choices]`.
    """

    layer: nn.Module
    original: torch.Tensor
    errors: torch.Tensor
    sizes: torch.Tensor

    def mix(self, shares: torch.Tensor) -> None:
        """Set the weight to W + Σ_k O_k ΔW_k; shares of zero restore it.

        Args:
            shares: O, float `[choices]`.
        """
        with torch.no_grad():
            change = shares.to(self.errors) @ self.errors
            matrix_of(self.layer).copy_(self.original + change.view(self.original.shape))


def score(task: ScoringTask, pending: Sequence[int]) -> Iterator[tuple[int, Estimate]]:
    """Learn the probabilities of all matrices' choices, and yield those of the pending ones.

    The standard error is that of a sum of independent steps, from the spread of their gradients.

    Args:
        task: model, texts, quantization errors, sizes of the choices and the budget.
        pending: indices of the matrices to score.

    Raises:
        InfeasibleError: the budget is below the smallest choices.
        UsageError: the rounded versions do not fit into memory.
    """
    if not pending:
        return
    budget = _feasible_budget(task)
    needed = 4 * sum(m.elements * len(task.sizes[m.module]) for m in task.profile.matrices)
    task.shares.refuse_less(task.shares.limit // 2, needed, "every choice of every matrix at once")
    mixtures = [_mixture(task, index) for index in range(len(task.profile.matrices))]
    logits, learned = ([torch.zeros(len(one.sizes), dtype=torch.float64) for one in mixtures] for _ in range(2))
    references = [_reference(task, batch) for batch in task.batches]
    generator = torch.Generator().manual_seed(task.seed)
    steps = PASSES * len(task.batches)
    moved = [torch.zeros(2, len(one), dtype=torch.float64) for one in logits]  # sums of gradients and of their squares
    order: list[int] = []
    total = 0.0
    try:
        for step in range(steps):
            task.note(f"step {step + 1} of {steps}")
            order = order or torch.randperm(len(task.batches), generator=generator).tolist()
            place = order.pop()
            heat = FIRST_TEMPERATURE * (LAST_TEMPERATURE / FIRST_TEMPERATURE) ** (step / steps)
            noise = [-(-torch.rand(len(one), generator=generator).double().log()).log() for one in logits]
            loss, slopes = mixed_loss(task, mixtures, logits, noise, heat, (task.batches[place], references[place]))
            total += loss
            scale = (step + 1) / total if total > 0 else 0.0
            pulls = size_slopes(mixtures, logits, budget)
            for beta, part, sums, slope, pull in zip(logits, learned, moved, slopes, pulls, strict=True):
                gradient = scale * slope
                part -= RATE * gradient
                beta -= RATE * (gradient + SIZE_WEIGHT * pull)
                sums += torch.stack([gradient, gradient.square()])
    finally:
        for one in mixtures:
            one.mix(torch.zeros_like(one.sizes))
    for index in pending:
        mean, square = moved[index] / steps
        spread = (square - mean.square()).clamp(min=0).sqrt()
        yield index, Estimate(-learned[index].log_softmax(0), RATE * math.sqrt(steps) * spread, task.num_samples)


def mixed_loss(
    task: ScoringTask,
    mixtures: Sequence[Mixture],
    logits: Sequence[torch.Tensor],
    noise: Sequence[torch.Tensor],
    temperature: float,
    sample: tuple[TokenBatch, torch.Tensor],
) -> tuple[float, list[torch.Tensor]]:
    """Return the loss of the mixtures on a batch, and its gradients by β, float64 `[choices]` for each matrix.

    ∂loss/∂O_k = ⟨∂loss/∂W, ΔW_k⟩ needs no graph through the choices. The weights stay mixed.

    Args:
        task: model and head.
        mixtures: of all matrices.
        logits: β of each matrix.
        noise: Gumbel noise of each matrix.
        temperature: of the mixture's weights.
        sample: a batch, and the float model's rows on it.
    """
    leaves = [beta.detach().requires_grad_() for beta in logits]
    shares = [
        ((leaf.log_softmax(0) + gumbel) / temperature).softmax(0) for leaf, gumbel in zip(leaves, noise, strict=True)
    ]
    for one, share in zip(mixtures, shares, strict=True):
        one.mix(share.detach())
    batch, truth = sample
    loss = KINDS[task.head.kind].loss.of_rows(truth, answers(task.head, task.model, batch).values).mean()
    gradients = torch.autograd.grad(
        loss, [one.layer.get_parameter("weight") for one in mixtures], materialize_grads=True
    )
    by_share = [
        (one.errors @ matrix_of(one.layer, gradient).flatten()).to(share)
        for one, gradient, share in zip(mixtures, gradients, shares, strict=True)
    ]
    return loss.item(), list(torch.autograd.grad(shares, leaves, by_share))


def size_slopes(mixtures: Sequence[Mixture], logits: Sequence[torch.Tensor], budget: int) -> list[torch.Tensor]:
    """Return the gradients of L(E[bytes]) by β, float64 `[choices]` for each matrix; 0 within `SLACK` of the budget.

    Args:
        mixtures: of all matrices, for the sizes of their choices.
        logits: β of each matrix.
        budget: bytes of all matrices together.
    """
    probabilities = [beta.softmax(0) for beta in logits]
    means = [share @ one.sizes for share, one in zip(probabilities, mixtures, strict=True)]
    expected = float(sum(means))
    sign = 0.0 if abs(expected / budget - 1) <= SLACK else math.copysign(1.0, expected - budget)
    return [
        sign / expected * share * (one.sizes - mean)
        for share, one, mean in zip(probabilities, mixtures, means, strict=True)
    ]


def _feasible_budget(task: ScoringTask) -> int:
    """Return the budget, after checking that some choices meet it.

    Raises:
        InfeasibleError: no choices do.
    """
    budget, least = task.given_budget(), sum(min(task.sizes[m.module]) for m in task.profile.matrices)
    if budget < least:
        raise InfeasibleError(f"`budget` {budget:,} bytes: the smallest choices take {least:,}. Give at least that.")
    return budget


def _mixture(task: ScoringTask, index: int) -> Mixture:
    matrix = task.profile.matrices[index]
    layer = task.model.get_submodule(matrix.module)
    task.note(f"rounding {matrix.module}")
    errors = torch.cat([part.flatten(1).clone() for part in task.perturbations(matrix)])
    return Mixture(
        layer, matrix_of(layer).detach().clone(), errors, torch.tensor(task.sizes[matrix.module], dtype=torch.float64)
    )


@torch.no_grad()
def _reference(task: ScoringTask, batch: TokenBatch) -> torch.Tensor:
    return answers(task.head, task.model, batch).values
