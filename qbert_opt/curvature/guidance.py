"""Input statistics that know which tokens the answer hangs on: second moments weighted by the squared gradient.

A rounding error ΔW moves the answer by `Σ_t g_tᵀ ΔW a_t`. Plain second moments `Σ a aᵀ` count every token alike; here
a token counts by `‖g_t‖²`, the Gauss-Newton gradient at the matrix' output (GuidedQuant, Kim et al. 2025, with one
group of outputs). No labels are needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from ..models.batches import TokenBatch
from ..models.outputs import Head, head_of, rows_per_sample
from .columns import TEMPERATURE, FactorPlan
from .factors import factor_pass


def guided_grams(
    model: nn.Module,
    batches: Sequence[TokenBatch],
    grams: Mapping[str, torch.Tensor],
    share: float,
    head: Head | None = None,
) -> dict[str, torch.Tensor]:
    """Blend plain input second moments with gradient-weighted ones, each scaled to a mean diagonal of one.

    Few tokens hold most of the weighted moments, which are noisy for that; the plain ones steady them.

    Args:
        model: in evaluation mode.
        batches: calibration text; one at a time is back-propagated, so memory is bounded by a batch.
        grams: plain second moments by module, float32 `[columns, columns]`.
        share: of the weighted moments, 0 to 1.
        head: how the model's answers are read; by its class when None.

    Returns:
        float32 `[columns, columns]` by module; the plain moments, scaled, where all gradients vanish.
    """
    head = head or head_of(model)
    weighted = {name: torch.zeros_like(gram) for name, gram in grams.items()}
    for batch in batches:
        rows = rows_per_sample(head.kind, [batch])
        if not rows:  # texts without a word that could be masked or tagged
            continue
        for name, samples in factor_pass(model, [batch], list(grams), FactorPlan(TEMPERATURE), head).items():
            inputs = torch.cat([sample.inputs for sample in samples])
            weights = torch.cat([sample.gradients.square().sum((0, 2)) for sample in samples])
            # a pass divides by its own rows; what counts here is a row, in whichever batch it stands
            weighted[name].addmm_((inputs * (rows * weights)[:, None]).T, inputs)
    return {name: _blend(gram, weighted[name], share) for name, gram in grams.items()}


def _blend(plain: torch.Tensor, weighted: torch.Tensor, share: float) -> torch.Tensor:
    steady = plain / plain.diagonal().mean().clamp_min(1e-30)
    scale = weighted.diagonal().mean()
    return (1 - share) * steady + share * weighted / scale if scale > 0 else steady
