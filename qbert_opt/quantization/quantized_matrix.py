"""A quantized matrix: codes, and per group either a scale and an offset or a codebook."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from ..spec.choices import Layout

TILE = 1 << 15  # weights
SMALLEST_SCALE = 2.0**-24  # smallest fp16 above zero: a constant group stays representable


@dataclass(frozen=True, slots=True)
class QuantizedMatrix:
    """Codes and ranges of one matrix: `weight ≈ scale * code + offset`, or `weight ≈ codebook[code]`.

    Attributes:
        layout: the groups and the form of their ranges.
        codes: uint8 `[rows, columns]`, each below `2**bits`.
        scale: float16 `[num_groups]` for row groups, `[rows, columns / group_size]` for column groups; all ones with a
            codebook.
        offset: float16, shaped as `scale`; the value of code 0. If it follows from the scale and is not stored (forms
            `symmetric`, `signed` and `zero-point`), it is float32: rounding it to fp16 would shift zero. Zeros
            with a codebook.
        codebook: float16 `[*scale.shape, 2**bits]`, ascending, for form `codebook`; else None.
    """

    layout: Layout
    codes: torch.Tensor
    scale: torch.Tensor
    offset: torch.Tensor
    codebook: torch.Tensor | None = None

    def dequantize(self) -> torch.Tensor:
        """Return the weights that the codes represent, float32 `[rows, columns]`."""
        rows, columns = self.codes.shape
        if self.codebook is not None:
            codes = grouped(self.codes, self.layout).long()
            levels = self.codebook.float().reshape(-1, 2**self.layout.bits)
            return levels.gather(1, codes).reshape(rows, columns)
        scale = expand(self.scale.float(), self.layout, rows, columns)
        offset = expand(self.offset.float(), self.layout, rows, columns)
        return self.codes.float() * scale + offset

    @property
    def zero(self) -> torch.Tensor:
        """Integer zero point of each range, uint8 shaped as `scale`: the code whose value is 0 (form `zero-point`)."""
        return (-self.offset.float() / self.scale.float()).round().to(torch.uint8)


class StoredMatrix(NamedTuple):
    """A matrix or embedding table as a checkpoint stores it.

    Attributes:
        module: name of its layer.
        quantized: codes and ranges.
    """

    module: str
    quantized: QuantizedMatrix


def joined(layout: Layout, parts: Sequence[QuantizedMatrix]) -> QuantizedMatrix:
    """Join quantized rows to one matrix.

    Args:
        layout: of the whole matrix, without ranges that span rows.
        parts: consecutive rows.
    """
    books = [part.codebook for part in parts if part.codebook is not None]
    return QuantizedMatrix(
        layout,
        torch.cat([part.codes for part in parts]),
        torch.cat([part.scale for part in parts]),
        torch.cat([part.offset for part in parts]),
        torch.cat(books) if books else None,
    )


def row_parts(matrix: QuantizedMatrix, rows: int) -> Iterator[QuantizedMatrix]:
    """Cut a matrix into parts of consecutive rows; the whole one, where a range spans rows.

    Args:
        matrix: of R rows.
        rows: of a part.
    """
    layout, (height, columns) = matrix.layout, matrix.codes.shape
    if layout.axis == "rows" and layout.num_groups < height:
        yield matrix
        return
    for start in range(0, height, rows):
        chosen = slice(start, min(start + rows, height))
        count = chosen.stop - start
        groups = count if layout.axis == "rows" else count * (columns // layout.group_size)
        yield QuantizedMatrix(
            replace(layout, num_groups=groups),
            matrix.codes[chosen],
            matrix.scale[chosen],
            matrix.offset[chosen],
            None if matrix.codebook is None else matrix.codebook[chosen],
        )


def with_codebook(layout: Layout, codes: torch.Tensor, codebook: torch.Tensor) -> QuantizedMatrix:
    """Return a matrix of form `codebook`; its scales are ones, its offsets zeros.

    Args:
        layout: groups and bits; of form `codebook`.
        codes: uint8 `[rows, columns]`.
        codebook: float16, the ascending values of the codes of each group, `[groups, 2**bits]` or of more axes.
    """
    shape = group_shape(layout, *codes.shape)
    ones = torch.ones(shape, dtype=torch.float16)
    levels = codebook.reshape(*shape, 2**layout.bits)
    return QuantizedMatrix(layout, codes, ones, torch.zeros_like(ones), levels)


def grouped(matrix: torch.Tensor, layout: Layout) -> torch.Tensor:
    """View a matrix as `[groups, elements of a group]`.

    Args:
        matrix: contiguous `[rows, columns]`.
        layout: its groups.
    """
    if layout.axis == "columns":
        return matrix.reshape(-1, layout.group_size)
    return matrix.reshape(layout.num_groups, -1)


def group_shape(layout: Layout, rows: int, columns: int) -> tuple[int, ...]:
    """Return the shape of the stored scales.

    Args:
        layout: the groups.
        rows: of the matrix.
        columns: of the matrix.

    Returns:
        `(num_groups,)` for row groups, `(rows, columns / group_size)` for column groups.
    """
    return (rows, columns // layout.group_size) if layout.axis == "columns" else (layout.num_groups,)


def expand(per_group: torch.Tensor, layout: Layout, rows: int, columns: int) -> torch.Tensor:
    """Expand per-group values to a tensor that broadcasts over the matrix.

    Args:
        per_group: one value of each group, shaped as `group_shape` says, or flattened.
        layout: the groups.
        rows: of the matrix.
        columns: of the matrix.

    Returns:
        `[rows, 1]` for row groups, `[rows, columns]` for column groups.
    """
    if layout.axis == "columns":
        return per_group.reshape(rows, -1).repeat_interleave(layout.group_size, dim=1)
    return per_group.reshape(-1).repeat_interleave(layout.group_size).reshape(rows, 1)


def top_code(layout: Layout) -> int:
    """Return the largest code in use: `2**bits - 1`, one less in a form that is symmetric around zero.

    Args:
        layout: bits and form.
    """
    return (1 << layout.bits) - (2 if layout.symmetric else 1)


def stored_range(low: torch.Tensor, high: torch.Tensor, layout: Layout) -> tuple[torch.Tensor, torch.Tensor]:
    """Round a range `[low, high]` per group to the values that are stored.

    Symmetric ranges use the odd number of levels `-(2**(b-1)-1) … 2**(b-1)-1`, signed ranges one more below zero. A
    zero point is a code, so its range contains zero.

    Args:
        low: least weight of each group.
        high: largest weight of each group, shaped as `low`.
        layout: bits and form; not `codebook`.

    Returns:
        scale (float16) and offset (float16; float32 where it follows from scale and zero point), shaped as `low`.
    """
    top, zero = top_code(layout), layout.fixed_zero
    if zero is not None:
        below, above = low.neg() / zero, high / (top - zero)
        scale = torch.maximum(below, above).clamp_min(SMALLEST_SCALE).half()
        return scale, fixed_offset(scale, layout)
    if layout.form == "zero-point":
        low, high = low.clamp_max(0), high.clamp_min(0)
        scale = ((high - low) / top).clamp_min(SMALLEST_SCALE).half()
        return scale, zero_point_offset(scale, (-low / scale.float()).round_().clamp_(0, top))
    scale = ((high - low) / top).clamp_min(SMALLEST_SCALE).half()
    return scale, low.half()


def fixed_offset(scale: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Return the value of code 0 in a form whose zero is the same code for every group (`Layout.fixed_zero`).

    Args:
        scale: of each group, of any shape.
        layout: bits and form.

    Returns:
        `-scale * fixed_zero`, float32, shaped as `scale`.

    Raises:
        ValueError: the layout's form stores a zero point or an offset.
    """
    if layout.fixed_zero is None:
        raise ValueError(f"form {layout.form} has no fixed zero")
    return scale.float() * -layout.fixed_zero


def zero_point_offset(scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """Return the value of code 0 if code `zero` represents 0: `-zero * scale`, float32.

    Args:
        scale: of each group, of any shape.
        zero: zero point of each group, shaped as `scale`.
    """
    return -zero.float() * scale.float()


def nearest_codes(values: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor, levels: int) -> torch.Tensor:
    """Return the codes, as floats `0 … levels - 1`, whose stored value is nearest.

    Args:
        values: to round.
        scale: of their groups; broadcasts with `values`.
        offset: the value of code 0 of their groups; broadcasts with `values`.
        levels: number of codes.
    """
    return ((values - offset) / scale).round_().clamp_(0, levels - 1)


def round_to_range(weight: torch.Tensor, layout: Layout, scale: torch.Tensor, offset: torch.Tensor) -> QuantizedMatrix:
    """Round each weight to the nearest level of its group's range.

    Args:
        weight: float32 `[rows, columns]`.
        layout: groups, bits and form; not `codebook`.
        scale: `[groups]`, as from `stored_range`.
        offset: `[groups]`, as from `stored_range`.
    """
    groups, top = grouped(weight, layout), top_code(layout)
    codes = torch.empty(groups.shape, dtype=torch.uint8)
    wide, zero = scale.float()[:, None], offset.float()[:, None]
    down, across = _tile(groups.shape)
    work = torch.empty(down, across)
    for start in range(0, len(groups), down):
        part = slice(start, start + down)
        for left in range(0, groups.shape[1], across):
            values = groups[part, left : left + across]
            code = torch.sub(values, zero[part], out=work[: len(values), : values.shape[1]])
            codes[part, left : left + across] = code.div_(wide[part]).round_().clamp_(0, top)
    shape = group_shape(layout, *weight.shape)
    return QuantizedMatrix(layout, codes.reshape(weight.shape), scale.reshape(shape), offset.reshape(shape))


def _tile(shape: torch.Size) -> tuple[int, int]:
    """Groups, and elements of a group, to process at a time so that they fit a cache."""
    across = min(shape[1], TILE)
    return max(1, TILE // across), across
