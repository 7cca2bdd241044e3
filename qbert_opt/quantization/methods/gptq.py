"""Error-compensated rounding (GPTQ, Frantar et al. 2023) with a range search weighted by input energy.

Ranges are fixed before the first column is rounded, so columns can be visited in order of their energy with any
grouping. All layouts of a matrix share one inverse Cholesky factor and one sweep over the columns. Large groups are
swept twice, with and without clipping of outliers, and the range with the smaller output error is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from ...spec.choices import Layout
from ...spec.forms import FORMS
from ..codebooks import round_to_codebook, search_codebook
from ..lanes import Lanes
from ..quantized_matrix import QuantizedMatrix, round_to_range
from ..ranges import is_large, search_range

__all__ = ["FORMS", "GRADIENT_SHARE", "NEEDS_GRAM", "quantize"]

T = TypeVar("T")

NEEDS_GRAM = True
GRADIENT_SHARE = 0.0
DAMPING = 0.01  # of the mean diagonal (GPTQ, section 3.3)
BLOCK = 64  # columns per lazy update; small enough for the rank-one updates to stay in cache
MAX_LANES_BYTES = 1 << 29
LANE_BYTES = 16  # per weight and layout: working copy, scale, offset, codes and temporaries


def quantize(
    weight: torch.Tensor, layouts: Sequence[Layout], gram: torch.Tensor | None = None
) -> list[QuantizedMatrix]:
    """Quantize one matrix under each layout so that `tr(ΔW · gram · ΔWᵀ)` stays small.

    Args:
        weight: float32 `[rows, columns]`.
        layouts: what to produce.
        gram: float32 `[columns, columns]`, mean over real tokens of `x xᵀ` for inputs x.

    Raises:
        ValueError: `gram` is missing or has the wrong shape.
    """
    hessian = damped("gptq", weight, gram)
    order = by_energy(hessian)
    permuted = hessian[order[:, None], order]
    hessian, energy = hessian.float(), hessian.diagonal().float()
    factor = _inverse_factor(permuted)
    del permuted  # as large as all of gptq's lanes of a small matrix
    lanes = [
        (index, clipping)
        for index, layout in enumerate(layouts)
        for clipping in ((True, False) if is_large(layout, weight.shape[1]) else (True,))
    ]
    found: dict[int, QuantizedMatrix] = {}
    for chunk in chunks(weight, lanes):
        placed = [place_range(weight, layouts[index], energy, clipping=clipping) for index, clipping in chunk]
        for (index, _), swept in zip(chunk, _sweep(weight, placed, order, factor), strict=True):
            found[index] = _better(weight, found[index], swept, hessian) if index in found else swept
    return [found[index] for index in range(len(layouts))]


def damped(method: str, weight: torch.Tensor, gram: torch.Tensor | None) -> torch.Tensor:
    """Check the gram and add damping to its diagonal: a share `DAMPING` of its mean (GPTQ, section 3.3).

    Args:
        method: name of the quantizer, for the message.
        weight: `[rows, columns]`.
        gram: second moments of the matrix's inputs, `[columns, columns]`.

    Returns:
        The damped second moments, float64 `[columns, columns]`.

    Raises:
        ValueError: there is no gram, or it has another shape.
    """
    columns = weight.shape[1]
    if gram is None or gram.shape != (columns, columns):
        raise ValueError(f"{method} needs the input second moments [{columns}, {columns}]")
    hessian = gram.to(torch.float64, copy=True)
    hessian.diagonal().add_(DAMPING * gram.diagonal().double().mean().clamp_min(1e-12))
    return hessian


def by_energy(hessian: torch.Tensor) -> torch.Tensor:
    """Return the columns by descending energy: the largest have most others left to compensate them.

    This is GPTQ's activation order.

    Args:
        hessian: `[columns, columns]`, whose diagonal is the energy.
    """
    return torch.argsort(hessian.diagonal(), descending=True, stable=True)


def chunks(weight: torch.Tensor, layouts: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut the layouts into parts whose sweep takes at most `MAX_LANES_BYTES`, at least one layout each.

    Args:
        weight: the matrix of all layouts.
        layouts: to be cut, in order.
    """
    lanes = max(1, MAX_LANES_BYTES // (LANE_BYTES * weight.numel()))
    for start in range(0, len(layouts), lanes):
        yield layouts[start : start + lanes]


def place_range(weight: torch.Tensor, layout: Layout, energy: torch.Tensor, *, clipping: bool) -> QuantizedMatrix:
    """Place ranges or codebooks by energy-weighted search and round to nearest; see `search_range`.

    Args:
        weight: float32 `[rows, columns]`.
        layout: groups, bits and form.
        energy: float32 `[columns]`, mean square of each input.
        clipping: whether large groups may clip outliers.
    """
    if layout.form == "codebook":
        return round_to_codebook(weight, layout, search_codebook(weight, layout, energy))
    return round_to_range(weight, layout, *search_range(weight, layout, energy, clipping=clipping))


def _better(
    weight: torch.Tensor, first: QuantizedMatrix, second: QuantizedMatrix, hessian: torch.Tensor
) -> QuantizedMatrix:
    """For each row group, keep the candidate with the smaller `Σ_r ΔW_r · hessian · ΔW_rᵀ`."""
    losses = []
    for each in (first, second):
        error = each.dequantize() - weight
        losses.append(((error @ hessian) * error).sum(1).reshape(-1, first.layout.group_size).sum(1))
    take = losses[1] < losses[0]
    rows = take.repeat_interleave(first.layout.group_size)[:, None]
    return replace(
        first,
        codes=torch.where(rows, second.codes, first.codes),
        scale=torch.where(take, second.scale, first.scale),
        offset=torch.where(take, second.offset, first.offset),
    )


def _inverse_factor(hessian: torch.Tensor) -> torch.Tensor:
    """Upper Cholesky factor of the inverse of a hessian in the order of the sweep, float32; the hessian is lost."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian), out=hessian)
    factor: torch.Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor.float()


def _sweep(
    weight: torch.Tensor, placed: Sequence[QuantizedMatrix], order: torch.Tensor, factor: torch.Tensor
) -> list[QuantizedMatrix]:
    """Round column after column, each time spreading its error over the columns not yet rounded."""
    lanes = Lanes(placed, order)
    work = lanes.spread([weight] * len(placed))
    columns = len(work)
    codes = torch.empty_like(work, dtype=torch.uint8)
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        block = work[start:stop]
        errors = torch.empty_like(block)
        for i in range(stop - start):
            column = start + i
            stored = lanes.round(column, block[i], codes[column])
            torch.sub(block[i], stored, out=errors[i]).div_(factor[column, column])
            if i + 1 < stop - start:
                block[i + 1 :].addr_(factor[column, column + 1 : stop], errors[i], alpha=-1)
        if stop < columns:
            work[stop:].addmm_(factor[start:stop, stop:].T, errors, alpha=-1)
    return [replace(p, codes=found) for p, found in zip(placed, lanes.gather(codes), strict=True)]
