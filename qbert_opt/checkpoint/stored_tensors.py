"""What of a quantized matrix is on disk: its tensors by name, with their shapes and types, there and back.

weight     uint8, packed codes                every form
scale      float16, one per range             every form but codebook
offset     float16, one per range             form offset
zero       uint8, packed, one per range       form zero-point
codebook   float16, 2**bits per range         form codebook

Packed codes have the name of the weight that they replace, and another shape: who opens the file without knowing of
packed codes is stopped by the shape, instead of going on with random weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ..quantization.quantized_matrix import (
    QuantizedMatrix,
    fixed_offset,
    group_shape,
    with_codebook,
    zero_point_offset,
)
from ..spec.choices import Layout
from .bits import pack, packed_bytes, unpack

CODES = "weight"
OLD_CODES = "codes"  # in folders of format qbert-opt/model@1
PARTS = (CODES, "scale", "offset", "zero", "codebook")


def stored_parts(quantized: QuantizedMatrix) -> dict[str, torch.Tensor]:
    """Return the tensors that are written for a matrix; together they take as many bytes as its choice is priced.

    Args:
        quantized: codes with their ranges or codebooks.
    """
    layout = quantized.layout
    parts = {CODES: torch.from_numpy(pack(quantized.codes.numpy(), layout.bits))}
    if quantized.codebook is not None:
        return parts | {"codebook": quantized.codebook.contiguous()}
    parts["scale"] = quantized.scale.contiguous()
    if layout.form == "offset":
        parts["offset"] = quantized.offset.contiguous()
    elif layout.form == "zero-point":
        parts["zero"] = torch.from_numpy(pack(quantized.zero.numpy(), layout.bits))
    return parts


def part_shapes(layout: Layout, rows: int, columns: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and type of each tensor that a matrix of this layout has on disk.

    Args:
        layout: bits, groups and form.
        rows: outputs of the matrix, or entries of the table.
        columns: its inputs, or its width.
    """
    groups = group_shape(layout, rows, columns)
    codes = ((packed_bytes(rows * columns, layout.bits),), torch.uint8)
    if layout.form == "codebook":
        return {CODES: codes, "codebook": ((*groups, 2**layout.bits), torch.float16)}
    shapes = {CODES: codes, "scale": (groups, torch.float16)}
    if layout.form == "offset":
        shapes["offset"] = (groups, torch.float16)
    elif layout.form == "zero-point":
        shapes["zero"] = ((packed_bytes(layout.num_groups, layout.bits),), torch.uint8)
    return shapes


def restored(layout: Layout, rows: int, columns: int, parts: Mapping[str, torch.Tensor]) -> QuantizedMatrix:
    """Undo `stored_parts`; the parts have the shapes and types of `part_shapes`.

    Args:
        layout: bits, groups and form.
        rows: outputs of the matrix, or entries of the table.
        columns: its inputs, or its width.
        parts: the tensors by name, as `stored_parts` names them.
    """
    packed = np.asarray(parts[CODES])
    codes = torch.from_numpy(unpack(packed, layout.bits, rows * columns).reshape(rows, columns))
    if layout.form == "codebook":
        return with_codebook(layout, codes, parts["codebook"])
    scale = parts["scale"]
    if layout.form == "offset":
        return QuantizedMatrix(layout, codes, scale, parts["offset"])
    if layout.fixed_zero is not None:
        return QuantizedMatrix(layout, codes, scale, fixed_offset(scale, layout))
    zero = torch.from_numpy(unpack(np.asarray(parts["zero"]), layout.bits, layout.num_groups)).reshape(scale.shape)
    return QuantizedMatrix(layout, codes, scale, zero_point_offset(scale, zero))
