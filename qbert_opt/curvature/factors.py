"""Gauss-Newton factors of the loss, back-propagated to the outputs of linear layers.

For softmax outputs with probabilities p the output Hessian of cross-entropy, and of KL to the unperturbed model, is
`diag(p) - p pᵀ = B Bᵀ`. Back-propagating each column of B once gives every Gauss-Newton quadratic form of every matrix
(Schraudolph 2002, section 4; the trick of per-sample gradients is that J_n = Σ_t g aᵀ).

A sample with many outputs (words × tags, positions of a span, a vocabulary) has too many columns. Then a few random
combinations B s with signs s = ±1 stand for them: E[(sᵀ z)²] = Σ z², so the sum over columns is estimated without bias,
as in Hutchinson's trace (1989). All matrices of a sample see the same signs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..models.batches import TokenBatch, single_samples
from ..models.outputs import SOFTMAX_KINDS, Head, Outputs, answers, head_of, rows_per_sample
from ..models.tracing import unfrozen
from .capture import Calls, captured, is_per_sample, sample_rows

MAX_EXACT_FACTORS = 8
SIGN_DRAWS = 4


@dataclass(frozen=True, slots=True)
class SampleFactors:
    """Inputs and back-propagated factors of one matrix for one sample.

    Attributes:
        index: the sample's number.
        inputs: float32 `[T, columns]`, the matrix' input at real tokens; of all calls one after the other where a
            pass uses the matrix more than once.
        gradients: float32 `[F, T, rows]`, gradient at the matrix' output for each output factor.
        sharpening: float32 `[F, F]`; column f combines the factors into those at temperature 1. None where these are at
            temperature 1 already, or are sign combinations, which cannot tell.
    """

    index: int
    inputs: torch.Tensor
    gradients: torch.Tensor
    sharpening: torch.Tensor | None = None

    def jacobian(self, out: torch.Tensor | None = None) -> torch.Tensor:
        """Return float32 `[F, rows, columns]`: `Σ_t g aᵀ`, the gradient of each factor by the weights.

        Args:
            out: contiguous memory for the result.
        """
        factors, tokens, rows = self.gradients.shape
        if out is None:
            out = self.inputs.new_empty(factors, rows, self.inputs.shape[1])
        torch.mm(
            self.gradients.transpose(1, 2).reshape(factors * rows, tokens),
            self.inputs,
            out=out.view(factors * rows, -1),
        )
        return out

    @property
    def bytes(self) -> int:
        """Memory that the sample takes."""
        return 4 * (self.inputs.numel() + self.gradients.numel())


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


def _roots(logits: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Square roots of the eigenvalues of the output Hessian but the smallest, `[N, C - 1]`, and their vectors."""
    p = (logits.detach().double() / temperature).softmax(-1)
    hessian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    values, vectors = torch.linalg.eigh(hessian)
    return values.clamp_min(0).sqrt()[:, 1:], vectors[:, :, 1:]


def softened(head: Head, temperature: float) -> float:
    """Return the temperature to take curvature at: 1 where sign draws stand for the factors, which cannot tell both."""
    return 1.0 if _exact_factors(head) is None else temperature


def num_factors(head: Head, draws: int = SIGN_DRAWS) -> int:
    """Return the factors of a sample: all columns of B where they are few, else the number of sign draws."""
    exact = _exact_factors(head)
    return draws if exact is None else exact


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
    if outputs.kind in SOFTMAX_KINDS:
        p = (values / temperature).softmax(-1)
        root = p.sqrt()
        return (root * signs - p * (root * signs).sum(-1, keepdim=True)).to(outputs.values.dtype)
    return (_distance_scale(outputs) * signs).to(outputs.values.dtype)


def factor_pass(
    model: nn.Module,
    batches: Sequence[TokenBatch],
    modules: Sequence[str],
    *,
    temperature: float = 1.0,
    head: Head | None = None,
    draws: int = SIGN_DRAWS,
    seed: int = 0,
) -> dict[str, list[SampleFactors]]:
    """Run one forward and F backward passes per batch; returns each matrix' samples in order of the texts.

    Half the mean over samples of the squared products of these factors with ΔW is the second order of the loss: mean
    over labelled positions, where a sample has several. F is `num_factors`. The result takes
    `4 * tokens * (columns + F * rows)` bytes per matrix; ask for fewer modules to bound it.

    Args:
        model: in evaluation mode.
        batches: the samples; indices may be any distinct numbers.
        modules: names of linear layers.
        temperature: see `output_factors`.
        head: how the model's answers are read; by its class when None.
        draws: sign draws, where columns are many.
        seed: of the signs.
    """
    head = head or head_of(model)
    scale = rows_per_sample(head.kind, batches) ** -0.5
    found: dict[str, dict[int, SampleFactors]] = {name: {} for name in modules}
    waiting = deque(batches)
    with captured(model, modules) as seen, unfrozen(model), torch.enable_grad():
        while waiting:
            batch = waiting.popleft()
            seen.clear()
            outputs = answers(head, model, batch)
            if len(batch.indices) > 1 and not _all_per_sample(seen, batch.mask):
                # what all samples of a batch share has no gradient of its own for each: take them one by one
                waiting = deque(single_samples([batch, *waiting]))
                continue
            for name, samples in _batch_factors(seen, outputs, batch, modules, head, (temperature, scale, draws, seed)):
                found[name] |= samples
    return {name: [samples[i] for i in sorted(samples)] for name, samples in found.items()}


def _batch_factors(
    seen: dict[str, Calls],
    outputs: Outputs,
    batch: TokenBatch,
    modules: Sequence[str],
    head: Head,
    how: tuple[float, float, int, int],
) -> Iterator[tuple[str, dict[int, SampleFactors]]]:
    """Back-propagate all factors of one batch."""
    temperature, scale, draws, seed = how
    targets = [call for name in modules for call in seen[name]]
    edges = [call.edge for call in targets if call.edge is not None]
    cotangents = _cotangents(head, outputs, temperature, draws, seed)
    count = num_factors(head, draws)
    sharp = None
    if head.kind == "classes" and _exact_factors(head) is not None and temperature != 1.0:
        sharp = sharpening(outputs.values, temperature)
    gradients: list[list[list[torch.Tensor]]] = [[] for _ in targets]  # [call][factor][sample]
    for f, cotangent in enumerate(cotangents):
        grads = torch.autograd.grad(
            outputs.values, edges, grad_outputs=scale * cotangent, retain_graph=f + 1 < count, allow_unused=True
        )
        found = iter(grads)
        for kept, call in zip(gradients, targets, strict=True):
            gradient = call.gradient(None if call.edge is None else next(found))
            kept.append(sample_rows(gradient, batch.mask))
    position = 0
    for name in modules:
        calls = seen[name]
        inputs = [sample_rows(call.inputs, batch.mask) for call in calls]
        parts = gradients[position : position + len(calls)]
        position += len(calls)
        yield (
            name,
            {
                index: SampleFactors(
                    index,
                    torch.cat([rows[n] for rows in inputs]),
                    torch.stack([torch.cat([part[f][n] for part in parts]) for f in range(count)]),
                    None if sharp is None else sharp[n],
                )
                for n, index in enumerate(batch.indices)
            },
        )


def _cotangents(head: Head, outputs: Outputs, temperature: float, draws: int, seed: int) -> Iterator[torch.Tensor]:
    """Yield what is back-propagated: each column of B, or scaled sign combinations of them."""
    if _exact_factors(head) is None:
        for draw in range(draws):
            yield combined_factors(outputs, temperature, seed, draw) / draws**0.5
    elif head.kind == "classes":
        yield from output_factors(outputs.values, temperature).unbind(-1)
    else:
        scale = _distance_scale(outputs).to(outputs.values.dtype)
        for column in range(outputs.values.shape[1]):
            yield scale * nn.functional.one_hot(torch.tensor(column, device=scale.device), outputs.values.shape[1])


def _exact_factors(head: Head) -> int | None:
    """Number of all columns of B, or None where signs stand for them."""
    columns = {"classes": head.columns - 1, "regression": head.columns}.get(head.kind, 0)
    return columns if 0 < columns <= MAX_EXACT_FACTORS else None


def _distance_scale(outputs: Outputs) -> torch.Tensor:
    """√2 over the length of each output, `[rows, 1]`; √2 where distances are absolute."""
    if outputs.kind == "regression":
        return torch.full((len(outputs.values), 1), 2**0.5, dtype=torch.float64, device=outputs.values.device)
    return 2**0.5 / outputs.values.detach().double().norm(dim=-1, keepdim=True)


def _signs(outputs: Outputs, seed: int, draw: int) -> torch.Tensor:
    """Random ±1 `[rows, columns]`; a sample's do not depend on its batch, nor on how far its columns are padded."""
    samples, counts = outputs.samples.unique_consecutive(return_counts=True)
    parts = [
        np.random.default_rng((seed, draw, sample)).integers(0, 2, (outputs.values.shape[1], count), dtype=np.int8).T
        for sample, count in zip(samples.tolist(), counts.tolist(), strict=True)
    ]
    return torch.from_numpy(2.0 * np.concatenate(parts) - 1.0) if parts else outputs.values.detach().double()


def _all_per_sample(seen: dict[str, Calls], mask: torch.Tensor) -> bool:
    return all(is_per_sample(call.inputs, mask) for calls in seen.values() for call in calls)
