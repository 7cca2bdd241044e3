"""Descent on `tr(ΔW · H · ΔWᵀ)` from a quantized matrix: over its codes, and over the parameters of its ranges.

Neither step increases it, except for rounding in float32 sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from .lanes import Lanes
from .quantized_matrix import (
    QuantizedMatrix,
    expand,
    fixed_offset,
    grouped,
    with_codebook,
    zero_point_offset,
)

BLOCK = 64  # columns per lazy update
LARGEST_CODEBOOK = 16  # entries refitted together
RIDGE = 1e-9  # of the mean diagonal: a group with one code in use stays solvable


def descend_codes(
    weight: torch.Tensor, quantized: Sequence[QuantizedMatrix], hessian: torch.Tensor, order: torch.Tensor
) -> list[QuantizedMatrix]:
    """Move each weight once to its best level given all others (QuantEase, Behdin et al. 2023, algorithm 1).

    Args:
        weight: float32 `[rows, columns]`.
        quantized: the same matrix under several layouts.
        hessian: float32 `[columns, columns]`, positive definite.
        order: the order in which columns are visited.
    """
    lanes = Lanes(quantized, order)
    curvature = hessian[order][:, order]
    stored = lanes.spread([q.dequantize() for q in quantized])
    slope = curvature @ lanes.spread([q.dequantize() - weight for q in quantized])  # half the gradient
    codes = torch.empty_like(stored, dtype=torch.uint8)
    for start in range(0, len(stored), BLOCK):
        stop = min(start + BLOCK, len(stored))
        block = slope[start:stop]
        moves = torch.empty_like(block)
        for i in range(stop - start):
            column = start + i
            target = torch.addcdiv(stored[column], block[i], curvature[column, column], value=-1)
            torch.sub(lanes.round(column, target, codes[column]), stored[column], out=moves[i])
            if i + 1 < stop - start:
                block[i + 1 :].addr_(curvature[column, column + 1 : stop], moves[i])
        if stop < len(stored):
            slope[stop:].addmm_(curvature[start:stop, stop:].T, moves)
    return [replace(q, codes=swept) for q, swept in zip(quantized, lanes.gather(codes), strict=True)]


def refit_ranges(weight: torch.Tensor, quantized: QuantizedMatrix, hessian: torch.Tensor) -> QuantizedMatrix:
    """Refit the parameters of each range by least squares given the codes, one group of columns after the other.

    A range is left alone if rounding to fp16, or a scale that is not positive, would increase the error.

    Args:
        weight: float32 `[rows, columns]`.
        quantized: the matrix.
        hessian: float32 `[columns, columns]`, positive definite.
    """
    layout, (rows, columns) = quantized.layout, weight.shape
    if quantized.codebook is not None and quantized.codebook.shape[-1] > LARGEST_CODEBOOK:
        return quantized
    width = layout.group_size if layout.axis == "columns" else columns
    numbers = _numbers(quantized)
    slope = (quantized.dequantize() - weight) @ hessian  # half the gradient
    for index, start in enumerate(range(0, columns, width)):
        part = slice(start, start + width)
        features = _features(quantized, part)
        moves = _least_squares(features, numbers[:, index], hessian[part, part], slope[:, part])
        if quantized.codebook is None:
            moves[numbers[:, index, 0] + moves[:, 0] <= 0] = 0
        numbers[:, index] += moves
        per_row = moves.float().repeat_interleave(rows // len(moves), dim=0)
        slope.addmm_(_combined(features, per_row), hessian[part])
    return _with_numbers(quantized, numbers)


def _numbers(quantized: QuantizedMatrix) -> torch.Tensor:
    """The fitted parameters of the ranges, float64 `[groups down, groups across, parameters of a range]`."""
    layout = quantized.layout
    down = len(quantized.codes) if layout.axis == "columns" else layout.num_groups
    if quantized.codebook is not None:
        return quantized.codebook.double().reshape(down, -1, quantized.codebook.shape[-1])
    parts = [quantized.scale] + ([quantized.offset] if layout.form == "offset" else [])
    return torch.stack([part.double().reshape(down, -1) for part in parts], 2)


def _with_numbers(quantized: QuantizedMatrix, numbers: torch.Tensor) -> QuantizedMatrix:
    layout = quantized.layout
    if quantized.codebook is not None:
        return _sorted_codebook(quantized, numbers.half().reshape(quantized.codebook.shape))
    scale = numbers[..., 0].half().reshape(quantized.scale.shape)
    if layout.form == "offset":
        return replace(quantized, scale=scale, offset=numbers[..., 1].half().reshape(scale.shape))
    if layout.fixed_zero is not None:
        return replace(quantized, scale=scale, offset=fixed_offset(scale, layout))
    return replace(quantized, scale=scale, offset=zero_point_offset(scale, quantized.zero))


def _sorted_codebook(quantized: QuantizedMatrix, codebook: torch.Tensor) -> QuantizedMatrix:
    """Sort the entries of each codebook again and renumber the codes to match."""
    layout = quantized.layout
    levels, order = codebook.reshape(-1, codebook.shape[-1]).sort(dim=1, stable=True)
    codes = order.argsort(dim=1).gather(1, grouped(quantized.codes, layout).long())
    return with_codebook(layout, codes.to(torch.uint8).reshape(quantized.codes.shape), levels)


def _features(quantized: QuantizedMatrix, part: slice) -> list[torch.Tensor]:
    """Derivative of the weights by each parameter of a range, float32 `[rows or 1, columns of the part]`."""
    layout = quantized.layout
    codes = quantized.codes[:, part].float()
    if quantized.codebook is not None:
        return [(codes == entry).float() for entry in range(quantized.codebook.shape[-1])]
    if layout.form == "offset":
        return [codes, torch.ones(1, codes.shape[1])]
    if layout.fixed_zero is not None:
        return [codes - layout.fixed_zero]
    zero = expand(quantized.zero.float(), layout, *quantized.codes.shape).expand(quantized.codes.shape)
    return [codes - zero[:, part]]


def _combined(features: Sequence[torch.Tensor], per_row: torch.Tensor) -> torch.Tensor:
    """Change of the weights when the parameters of each row's range change, float32 `[rows, columns of the part]`."""
    total = per_row[:, :1] * features[0]
    for index, feature in enumerate(features[1:], start=1):
        total += per_row[:, index, None] * feature
    return total


def _least_squares(
    features: Sequence[torch.Tensor], numbers: torch.Tensor, hessian: torch.Tensor, slope: torch.Tensor
) -> torch.Tensor:
    """Steps of the parameters to fp16 values that lower the objective, 0 if none does; float64, shaped as `numbers`."""
    rows, groups = len(slope), len(numbers)
    curved = [feature @ hessian for feature in features]

    def per_group(product: torch.Tensor) -> torch.Tensor:
        return product.sum(1, dtype=torch.float64).expand(rows).reshape(groups, -1).sum(1)

    matrix = torch.stack([torch.stack([per_group(c * f) for f in features], 1) for c in curved], 1)
    right = -torch.stack([per_group(slope * f) for f in features], 1)
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    ridge = RIDGE * diagonal.mean(1, keepdim=True).clamp_min(1e-30)
    solved = torch.linalg.solve(matrix + torch.diag_embed(ridge.expand_as(diagonal)), right)
    moves = (numbers + solved).half().double() - numbers
    change = torch.einsum("gp,gpq,gq->g", moves, matrix, moves) - 2 * (moves * right).sum(1)
    return torch.where((change < 0)[:, None] & moves.isfinite().all(1, keepdim=True), moves, 0.0)
