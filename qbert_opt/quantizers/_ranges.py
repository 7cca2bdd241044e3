"""The range of each group that loses least, when columns count by their input energy."""

from __future__ import annotations

import torch

from ..choices import Layout
from ._matrix import SMALLEST_SCALE, grouped, nearest_codes, stored_range

SHRINKS = {2: (1.0, 0.8, 0.6), 3: (1.0, 0.85, 0.7), 4: (1.0, 0.85)}  # starting points by bits
REFITS = {2: 4, 3: 3, 4: 2}
SAMPLE = 8192  # elements that are enough to place the range of a large group
CHUNK = 1 << 18  # elements worked on at a time: what a cache holds


def search_range(weight: torch.Tensor, layout: Layout, energy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Find scale and offset per group with least `Σ energy · (w - stored(w))²`.

    From a few shrunken min-max ranges, codes and range improve in turn: rounding, then weighted least squares for
    (scale, offset) given the codes. The best stored (fp16) range seen is kept: never worse than min-max.

    Args:
        weight: float32 `[rows, columns]`.
        layout: groups and bits.
        energy: float32 `[columns]`, mean square of each input.

    Returns:
        scale and offset, float16 `[groups]`.
    """
    rows, columns = weight.shape
    groups = grouped(weight, layout)
    weights = grouped(energy.clamp_min(1e-12).expand(rows, columns), layout)
    low, high = groups.aminmax(dim=1)
    if layout.bits not in SHRINKS or layout.symmetric:
        return stored_range(low, high, layout)  # at 5 bits and more clipping buys nothing
    if groups.shape[1] > SAMPLE:
        stride = -(-groups.shape[1] // SAMPLE) | 1  # odd, so that it does not walk along one column
        groups, weights = groups[:, ::stride], weights[:, ::stride]
    step = max(1, CHUNK // groups.shape[1])
    scales, offsets = [], []
    for start in range(0, len(groups), step):
        part = slice(start, start + step)
        scale, offset = _search(groups[part], weights[part], low[part], high[part], layout)
        scales.append(scale)
        offsets.append(offset)
    return torch.cat(scales), torch.cat(offsets)


def _search(
    values: torch.Tensor, weights: torch.Tensor, low: torch.Tensor, high: torch.Tensor, layout: Layout
) -> tuple[torch.Tensor, torch.Tensor]:
    levels = 2**layout.bits
    best_scale, best_offset = stored_range(low, high, layout)
    best_loss = torch.full_like(low, torch.inf)
    total = weights.sum(1)
    mean_value = (weights * values).sum(1) / total
    for shrink in SHRINKS[layout.bits]:
        scale, offset = stored_range(low * shrink, high * shrink, layout)
        for _ in range(REFITS[layout.bits] + 1):
            codes = nearest_codes(values, scale.float()[:, None], offset.float()[:, None], levels)
            error = values - codes * scale.float()[:, None] - offset.float()[:, None]
            loss = (weights * error.square_()).sum(1)
            better = loss < best_loss
            best_loss = torch.where(better, loss, best_loss)
            best_scale, best_offset = torch.where(better, scale, best_scale), torch.where(better, offset, best_offset)
            scale, offset = _refit(values, weights, codes, total, mean_value, scale)
    return best_scale, best_offset


def _refit(
    values: torch.Tensor,
    weights: torch.Tensor,
    codes: torch.Tensor,
    total: torch.Tensor,
    mean_value: torch.Tensor,
    scale: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted least squares of values on codes, rounded to fp16; a group with one code keeps its scale."""
    mean_code = (weights * codes).sum(1) / total
    centred = codes - mean_code[:, None]
    variance = (weights * centred.square()).sum(1)
    slope = (weights * centred * values).sum(1) / variance.clamp_min(1e-30)
    fitted = torch.where(variance > 0, slope, scale.float()).clamp_min(SMALLEST_SCALE).half()
    return fitted, (mean_value - fitted.float() * mean_code).half()
