"""What is back-propagated: the columns of a square root B of the output Hessian, one sampled column, or random ±1 sums.

For softmax outputs with probabilities p the output Hessian of cross-entropy, and of KL to the unperturbed model, is
`diag(p) - p pᵀ = B Bᵀ`. Back-propagating each column of B once gives every Gauss-Newton quadratic form of every matrix
(Schraudolph 2002, section 4).

**One sampled column.** With several classes each column of a sample costs a back-propagation, although a few uncertain
samples carry most of the curvature. Those get all columns (`sharing.carrying_samples`). For every other sample one
column k is sampled with probability q_k and divided by √q_k, which is unbiased: E[(b_kᵀ z)² / q_k] = Σ_k (b_kᵀ z)². In
the basis of these columns the Hessians at the pass's temperature and at 1 are both diagonal, `Σ b_k b_kᵀ` and
`Σ λ_k b_k b_kᵀ`, so the same back-propagation gives unbiased estimates of both; q is the mean of the columns' shares in
the two traces.

**Random sign sums.** A sample with many outputs (words × tags, positions of a span, a vocabulary) has too many columns.
A few random combinations B s with s = ±1 replace them: E[(sᵀ z)²] = Σ z², as in Hutchinson's trace estimator (1989).
All matrices use the same draws for a sample. One draw's variance is 2 ((Σ z²)² - Σ z⁴): the fewer columns carry a
sample's form, the less noise. B is therefore the Cholesky factor with the likeliest output first (Tanabe and Sagae
1992): its first column separates the likeliest output from all others, the second the next one from the rest, and if a
model wavers between two outputs, one column carries nearly everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..models.batches import TokenBatch, apart
from ..models.heads import KINDS
from ..models.heads.losses import SquaredDistance
from ..models.outputs import Head, Outputs

MAX_EXACT_FACTORS = 8
TEMPERATURE = 2.0  # of the softmax, at which all samples contribute
SIGN_DRAWS = 4  # of each sample, if all have the same output Hessian
GOLDEN = (5**0.5 - 1) / 2  # numbers n·GOLDEN mod 1 fill the unit interval evenly


@dataclass(frozen=True, slots=True)
class FactorPlan:
    """How the output Hessian is factored.

    Attributes:
        temperature: of the softmax; see `output_factors`.
        carrying: samples of a classifier that get all columns; the others get one sampled column. None: all get all.
        draws: number of random sign sums, if there are many columns; of each sample, or one number for all.
        seed: of all random draws.
        weights: of each sample's loss, for samples that were not drawn uniformly; None: all 1.
    """

    temperature: float = 1.0
    carrying: frozenset[int] | None = None
    draws: int | tuple[int, ...] = SIGN_DRAWS
    seed: int = 0
    weights: tuple[float, ...] | None = None

    def count(self, head: Head, sample: int) -> int:
        """Return the number of back-propagations of one sample.

        Args:
            head: how the outputs are read.
            sample: its number.
        """
        exact = exact_factors(head)
        if exact is None:
            return self.draws if isinstance(self.draws, int) else self.draws[sample]
        return 1 if self.draws_one(sample) and draws_columns(head) else exact

    def most(self, head: Head) -> int:
        """Return the largest number of back-propagations of any sample.

        Args:
            head: how the outputs are read.
        """
        return exact_factors(head) or (self.draws if isinstance(self.draws, int) else max(self.draws))

    def batched(self, head: Head, batches: Sequence[TokenBatch]) -> Sequence[TokenBatch]:
        """Regroup samples so that those of a batch have the same number of back-propagations.

        Args:
            head: how the outputs are read.
            batches: of tokenized texts.
        """
        if self.carrying is None and isinstance(self.draws, int):
            return batches
        return apart(batches, lambda sample: -self.count(head, sample))

    def mean_count(self, head: Head, samples: Sequence[int]) -> float:
        """Return the mean number of back-propagations of some samples.

        Args:
            head: how the outputs are read.
            samples: their numbers, at least one.
        """
        return sum(self.count(head, sample) for sample in samples) / len(samples)

    def roots(self, outputs: Outputs) -> torch.Tensor | float:
        """Return the square root of the weight of each row's sample, by which its columns are multiplied.

        Args:
            outputs: of the model, which say to which sample each row belongs.

        Returns:
            `[rows, 1]`, or 1 if no sample is weighted.
        """
        if self.weights is None:
            return 1.0
        return outputs.values.new_tensor(self.weights)[outputs.samples].sqrt()[:, None]

    def draws_one(self, sample: int) -> bool:
        """Return whether one sampled column replaces all columns of this sample.

        Args:
            sample: its number.
        """
        return self.carrying is not None and sample not in self.carrying


def output_factors(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Return float32 `[N, C, C - 1]`: columns B with `B Bᵀ = diag(p) - p pᵀ` for p = softmax(logits / temperature).

    The matrix has rank C - 1, so two classes need one back-propagation. Computed in float64.

    Args:
        logits: `[N, C]`.
        temperature: at 1 the result is the curvature of KL; above 1 more of it comes from confident samples.
    """
    roots, vectors = hessian_roots(logits, temperature)
    return (vectors * roots[:, None, :]).to(logits.dtype)


def sharpening(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return float32 `[N, C - 1, C - 1]`: A with `B₁ = B A`, for B at `temperature` and B₁ at 1.

    Both span the same space. With A, one set of back-propagations gives the quadratic form of KL itself in addition to
    the softened one. Directions whose softened curvature is below rounding error are left out.

    Args:
        logits: `[N, C]`.
        temperature: of the softmax.
    """
    roots, vectors = hessian_roots(logits, temperature)
    sharp_roots, sharp_vectors = hessian_roots(logits, 1.0)
    is_significant = roots > 1e-9 * roots[:, -1:]
    inverse = torch.where(is_significant, 1 / roots.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
    return (inverse[:, :, None] * (vectors.mT @ sharp_vectors) * sharp_roots[:, None, :]).float()


def shares_of(power: torch.Tensor) -> torch.Tensor:
    """Return each row divided by its sum; equal shares for a row of zeros.

    Args:
        power: not negative, `[N, F]`.
    """
    total = power.sum(1, keepdim=True)
    return torch.where(total > 0, power / total, 1 / power.shape[1])


def hessian_roots(logits: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Factor the output Hessian `diag(p) - p pᵀ` for p = softmax(logits / temperature), in float64.

    Args:
        logits: `[N, C]`.
        temperature: of the softmax.

    Returns:
        Square roots of all but the smallest eigenvalue, ascending, `[N, C - 1]`, and their eigenvectors,
        `[N, C, C - 1]`.
    """
    p = (logits.detach().double() / temperature).softmax(-1)
    hessian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    values, vectors = torch.linalg.eigh(hessian)
    return values.clamp_min(0).sqrt()[:, 1:], vectors[:, :, 1:]


def draws_columns(head: Head) -> bool:
    """Return whether there are several columns to sample from; two classes have only one.

    Args:
        head: how the outputs are read.
    """
    return head.spec.classifies and (exact_factors(head) or 0) > 1


def drawn_factors(
    logits: torch.Tensor, temperature: float, samples: torch.Tensor, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample one column for each sample.

    Args:
        logits: `[N, C]`.
        temperature: of the columns.
        samples: int64 `[N]`, numbers of the samples; a sample's draw does not depend on its batch. Draws of
            consecutive samples fill the unit interval evenly, which reduces the variance.
        seed: of all draws.

    Returns:
        The scaled columns, float32 `[N, C]`, and the factor that converts their squares to temperature 1, `[N]`.
    """
    mixing = sharpening(logits, temperature).double()
    rotation, sharp_roots, _ = torch.linalg.svd(mixing)
    columns = output_factors(logits.double(), temperature) @ rotation
    power = columns.square().sum(1)
    worth = sharp_roots.square()
    share = (shares_of(power) + shares_of(power * worth)) / 2
    start = float(np.random.default_rng(seed).random())
    point = (start + GOLDEN * samples.to(power)).frac()
    drawn = (share.cumsum(1) < point[:, None]).sum(1).clamp_max(share.shape[1] - 1)[:, None]
    root = share.gather(1, drawn).sqrt()
    column = columns.gather(2, drawn[:, None].expand(-1, columns.shape[1], 1))[:, :, 0] / root
    return column.to(logits.dtype), worth.gather(1, drawn)[:, 0].float()


def combined_factors(outputs: Outputs, temperature: float, seed: int, draw: int) -> torch.Tensor:
    """Return B s, `[rows, columns]`, for the random signs of one draw; a sample's signs depend on its number only.

    For embeddings the loss is the squared distance relative to the output's squared length, so B = √2 / ‖y‖; for
    regression it is absolute, so B = √2 (the loss is half the quadratic form).

    Args:
        outputs: of the model.
        temperature: of the softmax; not used for squared distances.
        seed: of all draws.
        draw: number of this draw.
    """
    values = outputs.values.detach().double()
    signs = _signs(outputs, seed, draw).to(values.device)
    loss = KINDS[outputs.kind].loss
    if isinstance(loss, SquaredDistance):
        return (loss.scale(outputs.values) * signs).to(outputs.values.dtype)
    p, order = (values / temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
    rest = p.flip(-1).cumsum(-1).flip(-1)  # of this output and all less likely ones
    below = nn.functional.pad(rest[:, 1:], (0, 1))
    least = torch.finfo(torch.float64).tiny
    # column j of the factor is √(p_j below_j / rest_j) at output j, and in proportion to -p at the less likely ones
    ratio = torch.where(below > 0, p / rest.clamp_min(least), 0.0)
    steps = (ratio / below.clamp_min(least)).sqrt() * signs
    combined = (ratio * below).sqrt() * signs - p * nn.functional.pad(steps.cumsum(-1)[:, :-1], (1, 0))
    return torch.empty_like(combined).scatter_(-1, order, combined).to(outputs.values.dtype)


def output_columns(
    head: Head, outputs: Outputs, plan: FactorPlan
) -> tuple[Iterator[torch.Tensor], torch.Tensor | None]:
    """Return the tensors to back-propagate, `[rows, columns]` each, and the samples' sharpening `[N, F, F]`.

    Args:
        head: how the outputs are read.
        outputs: of samples that all get all columns, or all get one.
        plan: how the output Hessian is factored.

    Returns:
        The tensors, and the matrices that convert softened factors to temperature 1; None if the factors are at 1
        already or are random sign sums, which cannot be converted.
    """
    if draws_columns(head) and plan.draws_one(int(outputs.samples[0])):
        column, worth = drawn_factors(outputs.values, plan.temperature, outputs.samples, plan.seed)
        return iter([column]), None if plan.temperature == 1.0 else worth.sqrt()[:, None, None]
    sharp = None
    if head.spec.classifies and exact_factors(head) is not None and plan.temperature != 1.0:
        sharp = sharpening(outputs.values, plan.temperature)
    return _cotangents(head, outputs, plan), sharp


def _cotangents(head: Head, outputs: Outputs, plan: FactorPlan) -> Iterator[torch.Tensor]:
    """Yield each column of B, or scaled random sign sums of them."""
    loss = head.spec.loss
    if exact_factors(head) is None:
        draws = plan.count(head, int(outputs.samples[0])) if len(outputs.samples) else 1
        for draw in range(draws):
            yield combined_factors(outputs, plan.temperature, plan.seed, draw) / draws**0.5
    elif not isinstance(loss, SquaredDistance):
        yield from output_factors(outputs.values, plan.temperature).unbind(-1)
    else:
        scale = loss.scale(outputs.values).to(outputs.values.dtype)
        for column in range(outputs.values.shape[1]):
            yield scale * nn.functional.one_hot(torch.tensor(column, device=scale.device), outputs.values.shape[1])


def exact_factors(head: Head) -> int | None:
    """Return the number of columns of B, or None if random sign sums replace them.

    Args:
        head: how the outputs are read.
    """
    columns = head.spec.exact_columns(head.columns)
    return columns if 0 < columns <= MAX_EXACT_FACTORS else None


def _signs(outputs: Outputs, seed: int, draw: int) -> torch.Tensor:
    """Random ±1 `[rows, columns]`; a sample's signs depend neither on its batch nor on padding of its columns."""
    samples, counts = outputs.samples.unique_consecutive(return_counts=True)
    parts = [
        np.random.default_rng((seed, draw, sample)).integers(0, 2, (outputs.values.shape[1], count), dtype=np.int8).T
        for sample, count in zip(samples.tolist(), counts.tolist(), strict=True)
    ]
    return torch.from_numpy(2.0 * np.concatenate(parts) - 1.0) if parts else outputs.values.detach().double()
