"""Gauss-Newton factors of the loss, back-propagated to the outputs of linear layers.

For softmax outputs with probabilities p the output Hessian of cross-entropy, and of KL to the unperturbed model, is
`diag(p) - p pᵀ = B Bᵀ`. Back-propagating each column of B once gives every Gauss-Newton quadratic form of every matrix
(Schraudolph 2002, section 4; the trick of per-sample gradients is that J_n = Σ_t g aᵀ).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..models.batches import TokenBatch
from .capture import captured, real_tokens


@dataclass(frozen=True, slots=True)
class SampleFactors:
    """Inputs and back-propagated factors of one matrix for one sample.

    Attributes:
        inputs: float32 `[T, columns]`, the matrix' input at real tokens.
        gradients: float32 `[F, T, rows]`, gradient at the matrix' output for each output factor.
    """

    inputs: torch.Tensor
    gradients: torch.Tensor

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
    p = (logits.detach().double() / temperature).softmax(-1)
    hessian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    values, vectors = torch.linalg.eigh(hessian)
    return (vectors * values.clamp_min(0).sqrt()[:, None, :])[:, :, 1:].to(logits.dtype)


def factor_pass(
    model: nn.Module, batches: Sequence[TokenBatch], modules: Sequence[str], *, temperature: float = 1.0
) -> dict[str, list[SampleFactors]]:
    """Run one forward and C - 1 backward passes per batch; returns each matrix' samples in order of the texts.

    The result takes `4 * tokens * (columns + (C - 1) * rows)` bytes per matrix; ask for fewer modules to bound it.
    """
    rows: dict[str, dict[int, SampleFactors]] = {name: {} for name in modules}
    with captured(model, modules) as seen:
        for batch in batches:
            seen.clear()
            logits = model(**batch.inputs).logits
            factors = output_factors(logits, temperature)
            outputs = [seen[name][1] for name in modules]
            gradients: list[list[torch.Tensor]] = [[] for _ in modules]
            for f in range(factors.shape[-1]):
                found = torch.autograd.grad(
                    (factors[:, :, f] * logits).sum(), outputs, retain_graph=f + 1 < factors.shape[-1]
                )
                for kept, gradient in zip(gradients, found, strict=True):
                    kept.append(real_tokens(gradient, batch.mask))
            lengths = batch.mask.sum(1).tolist()
            for name, stacked in zip(modules, gradients, strict=True):
                inputs = real_tokens(seen[name][0], batch.mask).split(lengths)
                per_sample = torch.stack(stacked).split(lengths, dim=1)
                for index, a, g in zip(batch.indices, inputs, per_sample, strict=True):
                    rows[name][index] = SampleFactors(a, g)
    return {name: [found[i] for i in range(len(found))] for name, found in rows.items()}
