"""The codebook of each group with the least squared error, columns weighted by their input energy.

Weighted k-means in one dimension, exact for small groups: clusters are intervals of the sorted values, so the best
ones follow by dynamic programming (Wang and Song 2011, Ckmeans.1d.dp). Large groups are first cut into bins of equal
count; Lloyd's iterations then polish.
"""

from __future__ import annotations

import torch

from ..spec.choices import Layout
from .quantized_matrix import QuantizedMatrix, grouped, with_codebook

BINS = 64  # groups of at most this many values are solved exactly
EXACT_BITS = 4  # with more bits, levels start at quantiles: there are nearly as many levels as bins
POLISH = 8  # Lloyd's iterations
CHUNK = 1 << 19  # intervals evaluated at a time


def search_codebook(weight: torch.Tensor, layout: Layout, energy: torch.Tensor) -> torch.Tensor:
    """Find the levels per group with least `Σ energy · (w - nearest level)²`.

    Args:
        weight: float32 `[rows, columns]`.
        layout: groups and bits.
        energy: float32 `[columns]`, mean square of each input.

    Returns:
        float16 `[groups, 2**bits]`, ascending.
    """
    values, order = grouped(weight, layout).sort(dim=1)
    weights = grouped(energy.clamp_min(1e-12).expand(weight.shape), layout).gather(1, order)
    levels = _quantiles(values, layout.bits) if layout.bits > EXACT_BITS else _optimal(values, weights, layout.bits)
    for _ in range(POLISH if layout.bits > EXACT_BITS or values.shape[1] > BINS else 0):
        levels = _centroids(values, weights, nearest_levels(values, levels), levels)
    return levels.half()


def nearest_levels(values: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Return the codes of the nearest levels, int64 `[groups, elements]`.

    Args:
        values: `[groups, elements]`.
        levels: ascending levels of each group, `[groups, 2**bits]`.
    """
    return torch.searchsorted((levels[:, 1:] + levels[:, :-1]) / 2, values.contiguous())


def round_to_codebook(weight: torch.Tensor, layout: Layout, codebook: torch.Tensor) -> QuantizedMatrix:
    """Round each weight to the nearest entry of its group's codebook.

    Args:
        weight: float32 `[rows, columns]`.
        layout: groups and bits; of form `codebook`.
        codebook: ascending, `[groups, 2**bits]`.
    """
    codes = nearest_levels(grouped(weight, layout), codebook.float())
    return with_codebook(layout, codes.to(torch.uint8).reshape(weight.shape), codebook)


def _centroids(values: torch.Tensor, weights: torch.Tensor, codes: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Weighted mean of the values at each level; a level without values is unchanged."""
    total = torch.zeros_like(levels).scatter_add_(1, codes, weights)
    moment = torch.zeros_like(levels).scatter_add_(1, codes, weights * values)
    return torch.where(total > 0, moment / total.clamp_min(1e-30), levels).sort(dim=1).values


def _quantiles(values: torch.Tensor, bits: int) -> torch.Tensor:
    positions = (torch.arange(2**bits) + 0.5) / 2**bits * values.shape[1]
    return values[:, positions.long()]


def _optimal(values: torch.Tensor, weights: torch.Tensor, bits: int) -> torch.Tensor:
    step = max(1, CHUNK // min(values.shape[1], BINS) ** 2)
    pairs = zip(torch.split(values, step), torch.split(weights, step), strict=True)
    return torch.cat([_optimal_chunk(v.double(), w.double(), 2**bits) for v, w in pairs]).float()


def _optimal_chunk(values: torch.Tensor, weights: torch.Tensor, num_levels: int) -> torch.Tensor:
    """Best means of `num_levels` intervals of sorted values, float64 `[groups, num_levels]`."""
    groups = len(values)
    moments = torch.stack([weights, weights * values, weights * values.square()])
    if values.shape[1] > BINS:
        edges = torch.arange(values.shape[1]) * BINS // values.shape[1]
        moments = moments.new_zeros(3, groups, BINS).index_add_(2, edges, moments)
    bins = moments.shape[2]
    sums = torch.cat([moments.new_zeros(3, groups, 1), moments.cumsum(2)], 2)
    # interval [i, j): from bin i up to but not including bin j
    mass, moment, power = (s[:, None, :] - s[:, :, None] for s in sums)
    cost = (power - moment.square() / mass.clamp_min(1e-300)).clamp_min(0)
    cost.masked_fill_(torch.ones(bins + 1, bins + 1, dtype=torch.bool).tril(-1), torch.inf)
    best, cuts = cost[:, 0], []
    for _ in range(num_levels - 1):
        best, cut = (best[:, :, None] + cost).min(1)
        cuts.append(cut)
    end = torch.full((groups, 1), bins)
    levels: list[torch.Tensor] = []
    for cut in [*reversed(cuts), torch.zeros(groups, bins + 1, dtype=torch.long)]:
        start = cut.gather(1, end)
        interval = sums.gather(2, end.expand(3, -1, -1)) - sums.gather(2, start.expand(3, -1, -1))
        mean = interval[1] / interval[0].clamp_min(1e-300)
        levels.append(torch.where(interval[0] > 0, mean, levels[-1] if levels else values[:, -1:]))
        end = start
    return torch.cat(levels, 1).sort(dim=1).values
