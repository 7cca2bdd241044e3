"""Error-compensated rounding (GPTQ, Frantar et al. 2023) with a range search weighted by input energy.

Ranges are fixed before the first column is rounded, so columns may be visited in order of their energy whatever the
grouping. All layouts of a matrix share one inverse Cholesky factor and one sweep over the columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..choices import FORMS, Layout
from ._codebooks import search_codebook
from ._matrix import QuantizedMatrix, group_shape, with_codebook
from ._ranges import search_range
from ._rounders import CodebookRounder, ScaleRounder

__all__ = ["FORMS", "NEEDS_GRAM", "quantize"]

NEEDS_GRAM = True
DAMPING = 0.01  # of the mean diagonal (GPTQ, section 3.3)
BLOCK = 64  # columns per lazy update; small enough for the rank-one updates to stay in cache
MAX_LANES_BYTES = 1 << 29


def quantize(weight: torch.Tensor, layouts: Sequence[Layout], gram: torch.Tensor | None) -> list[QuantizedMatrix]:
    """Quantize one matrix under each layout so that `tr(ΔW · gram · ΔWᵀ)` stays small.

    Args:
        weight: float32 `[rows, columns]`.
        layouts: what to produce.
        gram: float32 `[columns, columns]`, mean over real tokens of `x xᵀ` for inputs x.

    Raises:
        ValueError: `gram` is missing or has the wrong shape.
    """
    rows, columns = weight.shape
    if gram is None or gram.shape != (columns, columns):
        raise ValueError(f"gptq needs the input second moments [{columns}, {columns}]")
    order, factor = _inverse_factor(gram)
    energy = gram.diagonal()
    lanes = max(1, MAX_LANES_BYTES // (8 * rows * columns))
    results: list[QuantizedMatrix] = []
    for start in range(0, len(layouts), lanes):
        results += _quantize_lanes(weight, layouts[start : start + lanes], energy, order, factor)
    return results


def _quantize_lanes(
    weight: torch.Tensor, layouts: Sequence[Layout], energy: torch.Tensor, order: torch.Tensor, factor: torch.Tensor
) -> list[QuantizedMatrix]:
    """Quantize layouts in one sweep: those with scales side by side in one rounder, one rounder per codebook."""
    scaled = [layout for layout in layouts if layout.form != "codebook"]
    booked = [layout for layout in layouts if layout.form == "codebook"]
    ranges = [search_range(weight, layout, energy) for layout in scaled]
    books = [search_codebook(weight, layout, energy) for layout in booked]
    rounders: list[ScaleRounder | CodebookRounder] = []
    if scaled:
        rounders.append(ScaleRounder(scaled, ranges, weight.shape, order))
    rounders += [CodebookRounder(layout, book, weight.shape, order) for layout, book in zip(booked, books, strict=True)]
    codes = iter(_sweep(weight, rounders, order, factor))
    found = {}
    for layout, (scale, offset) in zip(scaled, ranges, strict=True):
        shape = group_shape(layout, *weight.shape)
        found[layout] = QuantizedMatrix(layout, next(codes), scale.reshape(shape), offset.reshape(shape))
    for layout, book in zip(booked, books, strict=True):
        found[layout] = with_codebook(layout, next(codes), book)
    return [found[layout] for layout in layouts]


def _inverse_factor(gram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns by falling energy, and the upper Cholesky factor of the inverse of the damped, permuted gram."""
    gram = gram.double()
    order = torch.argsort(gram.diagonal(), descending=True, stable=True)
    damp = DAMPING * gram.diagonal().mean().clamp_min(1e-12)
    damped = gram[order][:, order] + damp * torch.eye(len(gram), dtype=torch.float64)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return order, torch.linalg.cholesky(inverse, upper=True).float()


def _sweep(
    weight: torch.Tensor, rounders: Sequence[ScaleRounder | CodebookRounder], order: torch.Tensor, factor: torch.Tensor
) -> list[torch.Tensor]:
    """Round column after column, each time spreading its error over the columns not yet rounded.

    Works on `[columns, layouts * rows]`, so that one column of all layouts is one contiguous row.
    """
    rows, columns = weight.shape
    work = weight.T[order].repeat(1, sum(r.lanes for r in rounders))
    lanes = [r.lanes * rows for r in rounders]
    codes = torch.empty_like(work, dtype=torch.uint8)
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        block = work[start:stop]
        errors = torch.empty_like(block)
        for i in range(stop - start):
            column = start + i
            row = block[i]
            parts = zip(rounders, row.split(lanes), codes[column].split(lanes), errors[i].split(lanes), strict=True)
            for rounder, values, code, error in parts:
                found, stored = rounder.round(column, values)
                code.copy_(found)
                torch.sub(values, stored, out=error)
            errors[i] /= factor[column, column]
            if i + 1 < stop - start:
                block[i + 1 :].addr_(factor[column, column + 1 : stop], errors[i], alpha=-1)
        if stop < columns:
            work[stop:].addmm_(factor[start:stop, stop:].T, errors, alpha=-1)
    restored = torch.empty_like(codes)
    restored[order] = codes
    return [lane.T.contiguous() for lane in restored.split(rows, dim=1)]
