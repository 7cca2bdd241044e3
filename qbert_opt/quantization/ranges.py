"""The range of each group with the least squared error, columns weighted by their input energy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..spec.choices import Layout
from .quantized_matrix import (
    SMALLEST_SCALE,
    fixed_offset,
    grouped,
    nearest_codes,
    stored_range,
    top_code,
    zero_point_offset,
)

SHRINKS = {2: (1.0, 0.8, 0.6), 3: (1.0, 0.85, 0.7), 4: (1.0, 0.85)}  # starting points by bits
REFITS = {2: 4, 3: 3, 4: 2}
SAMPLE = 8192  # elements that are enough to place the range of a large group
ENDS = (1.0, 0.7, 0.5, 0.35, 0.25)  # starting points of such a group, for each end separately
CHUNK = 1 << 18  # elements processed at a time, to fit a cache


def is_large(layout: Layout, columns: int) -> bool:
    """Return whether groups are large enough to place their range on a sample, with and without clipping.

    Args:
        layout: groups, bits and form.
        columns: of the matrix.
    """
    searched = layout.bits in SHRINKS and layout.form != "codebook"
    return searched and layout.axis == "rows" and layout.group_size * columns > SAMPLE


def search_range(
    weight: torch.Tensor, layout: Layout, energy: torch.Tensor, *, clipping: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the scale and offset per group that minimize `Σ energy · (w - stored(w))²`.

    Starting from a few shrunken min-max ranges, the search alternates between rounding and a weighted least-squares fit
    of the range given the codes. The best range seen, as stored, is kept, so the result is never worse than min-max.
    At 1 bit the best range is computed.

    Args:
        weight: float32 `[rows, columns]`.
        layout: groups, bits and form; not `codebook`.
        energy: float32 `[columns]`, mean square of each input.
        clipping: whether large groups may clip outliers. That minimizes the sum above, which ignores correlations
            between inputs, so it may be worse at the output.

    Returns:
        scale and offset `[groups]`, with the types of `stored_range`.
    """
    rows, columns = weight.shape
    groups = grouped(weight, layout)
    weights = grouped(energy.clamp_min(1e-12).expand(rows, columns), layout)
    low, high = groups.amin(1), groups.amax(1)
    if layout.bits == 1 and groups.shape[1] > 1:
        return stored_range(*_best_two(groups, weights), layout)
    if layout.bits not in SHRINKS:
        return stored_range(low, high, layout)  # clipping does not help at 5 bits and more
    starts = _starts(layout)
    if groups.shape[1] > SAMPLE:
        groups, weights = _sampled(groups, weights)
        starts += [(below, above) for below in ENDS for above in ENDS] if clipping else []
    step = max(1, CHUNK // groups.shape[1])
    scales, offsets = [], []
    for start in range(0, len(groups), step):
        part = slice(start, start + step)
        scale, offset = _search(_Values.of(groups[part], weights[part]), low[part], high[part], layout, starts)
        scales.append(scale)
        offsets.append(offset)
    return torch.cat(scales), torch.cat(offsets)


def _best_two(groups: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the two levels per group of least weighted squared error: the means on both sides of the best cut."""
    values, order = groups.double().sort(1)
    masses = weights.double().gather(1, order)
    below, mass = (masses * values).cumsum(1), masses.cumsum(1)
    above, rest = below[:, -1:] - below[:, :-1], mass[:, -1:] - mass[:, :-1]
    below, mass = below[:, :-1], mass[:, :-1]
    cut = (below.square() / mass + above.square() / rest.clamp_min(1e-30)).argmax(1, keepdim=True)
    low, high = ((sums / totals).gather(1, cut)[:, 0].float() for sums, totals in ((below, mass), (above, rest)))
    return low, high


def _sampled(groups: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample elements of large groups: those with the largest weighted distance, and a reweighted subset of the rest.

    A single outlier at a high-energy input may cause most of the clipping error, and a plain sample would miss it.
    """
    centre = (weights * groups).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
    far = (weights * (groups - centre).square()).topk(SAMPLE // 2, dim=1).indices
    stride = -(-groups.shape[1] // (SAMPLE // 2)) | 1  # odd, so that it does not walk along one column
    rest = weights.scatter(1, far, 0.0)
    few = rest[:, ::stride] * (rest.sum(1, keepdim=True) / rest[:, ::stride].sum(1, keepdim=True).clamp_min(1e-30))
    values = torch.cat([groups.gather(1, far), groups[:, ::stride]], dim=1)
    return values, torch.cat([weights.gather(1, far), few], dim=1)


@dataclass(frozen=True, slots=True)
class _Values:
    """Values of some groups with their weights in the sum, `[groups, elements]`, and totals `[groups]`."""

    values: torch.Tensor
    weights: torch.Tensor
    total: torch.Tensor
    mean: torch.Tensor

    @classmethod
    def of(cls, values: torch.Tensor, weights: torch.Tensor) -> _Values:
        total = weights.sum(1)
        return cls(values, weights, total, (weights * values).sum(1) / total)


def _search(
    data: _Values, low: torch.Tensor, high: torch.Tensor, layout: Layout, starts: Sequence[tuple[float, float]]
) -> tuple[torch.Tensor, torch.Tensor]:
    best_scale, best_offset = stored_range(low, high, layout)
    best_loss = torch.full_like(low, torch.inf)
    for below, above in starts:
        scale, offset = stored_range(low * below, high * above, layout)
        for _ in range(REFITS[layout.bits] + 1):
            wide, zero = scale.float()[:, None], offset.float()[:, None]
            codes = nearest_codes(data.values, wide, zero, top_code(layout) + 1)
            error = data.values - codes * wide - zero
            loss = (data.weights * error.square_()).sum(1)
            better = loss < best_loss
            best_loss = torch.where(better, loss, best_loss)
            best_scale, best_offset = torch.where(better, scale, best_scale), torch.where(better, offset, best_offset)
            scale, offset = _refit(data, codes, scale, layout)
    return best_scale, best_offset


def _starts(layout: Layout) -> list[tuple[float, float]]:
    """Factors of the lower and upper end. Zero points move in whole codes, so asymmetric starts try the neighbours."""
    even = [(s, s) for s in SHRINKS[layout.bits]]
    if layout.form not in ("zero-point", "signed") or layout.bits > 2:
        return even
    return even + [(s / 2, s) for s, _ in even] + [(s, s / 2) for s, _ in even]


def _refit(
    data: _Values, codes: torch.Tensor, scale: torch.Tensor, layout: Layout
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted least-squares fit of values on codes, rounded as stored; a group with a single code keeps its scale."""
    if layout.fixed_zero is not None:
        fitted = _slope(data, codes - layout.fixed_zero, scale)
        return fitted, fixed_offset(fitted, layout)
    mean_code = (data.weights * codes).sum(1) / data.total
    fitted = _slope(data, codes - mean_code[:, None], scale)
    if layout.form == "offset":
        return fitted, (data.mean - fitted.float() * mean_code).half()
    zero = (mean_code - data.mean / fitted.float()).round_().clamp_(0, top_code(layout))
    fitted = _slope(data, codes - zero[:, None], fitted)
    return fitted, zero_point_offset(fitted, zero)


def _slope(data: _Values, centred: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    weighted = data.weights * centred
    power = (weighted * centred).sum(1)
    slope = (weighted * data.values).sum(1) / power.clamp_min(1e-30)
    return torch.where(power > 0, slope, scale.float()).clamp_min(SMALLEST_SCALE).half()
