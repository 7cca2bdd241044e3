"""Second moments of inputs in which each token is weighted by its influence on the model's output.

A quantization error ΔW changes the output by `Σ_t g_tᵀ ΔW a_t`. Plain second moments `Σ a aᵀ` weight all tokens alike;
here token t has the weight `‖g_t‖²`, with the Gauss-Newton gradient g at the matrix's output (GuidedQuant, Kim et al.
2025, with one group of outputs). No labels are needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from ..models.batches import TokenBatch
from ..models.outputs import Head, head_of, rows_per_sample
from ..models.paging import release_pages, result_hold
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

    A few tokens dominate the weighted moments and make them noisy; the plain moments stabilize them.

    Args:
        model: in evaluation mode.
        batches: calibration texts; one batch at a time is back-propagated, which bounds the memory.
        grams: plain second moments by module, float32 `[columns, columns]`.
        share: weight of the gradient-weighted moments, 0 to 1.
        head: how the model's outputs are read; determined by the model's class if None.

    Returns:
        float32 `[columns, columns]` by module; the scaled plain moments if all gradients vanish.
    """
    head = head or head_of(model)
    hold = result_hold(model)
    weighted = {name: hold(torch.zeros_like(gram)) for name, gram in grams.items()}
    for batch in batches:
        rows = rows_per_sample(head.kind, [batch])
        if not rows:  # no word in these texts can be masked or tagged
            continue
        for name, samples in factor_pass(model, [batch], list(grams), FactorPlan(TEMPERATURE), head).items():
            inputs = torch.cat([sample.inputs for sample in samples])
            weights = torch.cat([sample.gradients.square().sum((0, 2)) for sample in samples])
            # a pass divides by the rows of its batch; here every row has the same weight
            weighted[name].addmm_((inputs * (rows * weights)[:, None]).T, inputs)
            release_pages(model)
    blended = {}
    for name, gram in grams.items():
        blended[name] = hold(_blend(gram, weighted.pop(name), share))
        release_pages(model)
    return blended


def _blend(plain: torch.Tensor, weighted: torch.Tensor, share: float) -> torch.Tensor:
    steady = plain / plain.diagonal().mean().clamp_min(1e-30)
    scale = weighted.diagonal().mean()
    return (1 - share) * steady + share * weighted / scale if scale > 0 else steady
