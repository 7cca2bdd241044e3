"""Error-compensated rounding (GPTQ, Frantar et al. 2023) with a range search weighted by input energy.

Ranges are fixed before the first column is rounded, so columns may be visited in order of their energy whatever the
grouping. All layouts of a matrix share one inverse Cholesky factor and one sweep over the columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..choices import Layout
from ._matrix import QuantizedMatrix, expand, group_shape
from ._ranges import search_range

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
        chunk = layouts[start : start + lanes]
        ranges = [search_range(weight, layout, energy) for layout in chunk]
        codes = _sweep(weight, chunk, ranges, order, factor)
        for layout, (scale, offset), lane in zip(chunk, ranges, codes, strict=True):
            shape = group_shape(layout, rows, columns)
            results.append(QuantizedMatrix(layout, lane, scale.reshape(shape), offset.reshape(shape)))
    return results


def _inverse_factor(gram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns by falling energy, and the upper Cholesky factor of the inverse of the damped, permuted gram."""
    gram = gram.double()
    order = torch.argsort(gram.diagonal(), descending=True, stable=True)
    damp = DAMPING * gram.diagonal().mean().clamp_min(1e-12)
    damped = gram[order][:, order] + damp * torch.eye(len(gram), dtype=torch.float64)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return order, torch.linalg.cholesky(inverse, upper=True).float()


def _sweep(
    weight: torch.Tensor,
    layouts: Sequence[Layout],
    ranges: Sequence[tuple[torch.Tensor, torch.Tensor]],
    order: torch.Tensor,
    factor: torch.Tensor,
) -> list[torch.Tensor]:
    """Round column after column, each time spreading its error over the columns not yet rounded.

    Works on `[columns, layouts * rows]`, so that one column of all layouts is one contiguous row.
    """
    rows, columns = weight.shape
    scale = torch.cat(
        [_by_column(s, layout, rows, columns, order) for layout, (s, _) in zip(layouts, ranges, strict=True)], 1
    )
    offset = torch.cat(
        [_by_column(o, layout, rows, columns, order) for layout, (_, o) in zip(layouts, ranges, strict=True)], 1
    )
    top = torch.cat([torch.full((rows,), 2.0**each.bits - (2 if each.symmetric else 1)) for each in layouts])
    work = weight.T[order].repeat(1, len(layouts))
    codes = torch.empty_like(work, dtype=torch.uint8)
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        block = work[start:stop]
        errors = torch.empty_like(block)
        for i in range(stop - start):
            column = start + i
            row = block[i]
            code = ((row - offset[column]) / scale[column]).round_().clamp_(min=0)
            code = torch.minimum(code, top)
            codes[column] = code.to(torch.uint8)
            errors[i] = (row - (code * scale[column] + offset[column])) / factor[column, column]
            if i + 1 < stop - start:
                block[i + 1 :].addr_(factor[column, column + 1 : stop], errors[i], alpha=-1)
        if stop < columns:
            work[stop:].addmm_(factor[start:stop, stop:].T, errors, alpha=-1)
    restored = torch.empty_like(codes)
    restored[order] = codes
    return [lane.T.contiguous() for lane in restored.split(rows, dim=1)]


def _by_column(per_group: torch.Tensor, layout: Layout, rows: int, columns: int, order: torch.Tensor) -> torch.Tensor:
    """Per-group values as float32 `[columns, rows]` in sweep order."""
    return expand(per_group.float(), layout, rows, columns).expand(rows, columns).T[order]
