"""The tensors of a quantized matrix on disk, with their names, shapes and types.

weight     uint8, packed codes                every form; five to a byte in form ternary
scale      float16, one per range             every form but codebook
offset     float16, one per range             form offset
zero       uint8, packed, one per range       form zero-point
codebook   float16, 2**bits per range         form codebook

Packed codes have the name of the weight that they replace, but another shape: tools that do not know about packed codes
then fail on the shape instead of initializing the weight at random.
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
from .trits import pack_trits, unpack_trits

CODES = "weight"
OLD_CODES = "codes"  # in folders of format qbert-opt/model@1
PARTS = (CODES, "scale", "offset", "zero", "codebook")


def stored_parts(quantized: QuantizedMatrix) -> dict[str, torch.Tensor]:
    """Return the tensors that are written for a matrix; their total size is the price of its choice in bytes.

    Args:
        quantized: codes with their ranges or codebooks.
    """
    layout = quantized.layout
    codes = quantized.codes.numpy()
    packed = pack_trits(codes) if layout.form == "ternary" else pack(codes, layout.bits)
    parts = {CODES: torch.from_numpy(packed)}
    if quantized.codebook is not None:
        return parts | {"codebook": quantized.codebook.contiguous()}
    parts["scale"] = quantized.scale.contiguous()
    if layout.form == "offset":
        parts["offset"] = quantized.offset.contiguous()
    elif layout.form == "zero-point":
        parts["zero"] = torch.from_numpy(pack(quantized.zero.numpy(), layout.bits))
    return parts


def part_shapes(layout: Layout, rows: int, columns: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return the shape and type of each tensor of a matrix with this layout on disk.

    Args:
        layout: bits, groups and form.
        rows: outputs of the matrix, or entries of the table.
        columns: its inputs, or its width.
    """
    groups = group_shape(layout, rows, columns)
    codes = ((layout.code_bytes(rows * columns),), torch.uint8)
    if layout.form == "codebook":
        return {CODES: codes, "codebook": ((*groups, 2**layout.bits), torch.float16)}
    shapes = {CODES: codes, "scale": (groups, torch.float16)}
    if layout.form == "offset":
        shapes["offset"] = (groups, torch.float16)
    elif layout.form == "zero-point":
        shapes["zero"] = ((packed_bytes(layout.num_groups, layout.bits),), torch.uint8)
    return shapes


def restored(layout: Layout, rows: int, columns: int, parts: Mapping[str, torch.Tensor]) -> QuantizedMatrix:
    """Return the matrix from its tensors; the inverse of `stored_parts`.

    Args:
        layout: bits, groups and form.
        rows: outputs of the matrix, or entries of the table.
        columns: its inputs, or its width.
        parts: tensors by name, with the shapes and types of `part_shapes`.

    Raises:
        ValueError: a byte holds no five ternary codes.
    """
    packed, size = np.asarray(parts[CODES]), rows * columns
    flat = unpack_trits(packed, size) if layout.form == "ternary" else unpack(packed, layout.bits, size)
    codes = torch.from_numpy(flat.reshape(rows, columns))
    if layout.form == "codebook":
        return with_codebook(layout, codes, parts["codebook"])
    scale = parts["scale"]
    if layout.form == "offset":
        return QuantizedMatrix(layout, codes, scale, parts["offset"])
    if layout.fixed_zero is not None:
        return QuantizedMatrix(layout, codes, scale, fixed_offset(scale, layout))
    zero = torch.from_numpy(unpack(np.asarray(parts["zero"]), layout.bits, layout.num_groups)).reshape(scale.shape)
    return QuantizedMatrix(layout, codes, scale, zero_point_offset(scale, zero))
