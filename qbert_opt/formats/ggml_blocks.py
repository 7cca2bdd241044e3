"""Block types of GGML: our codes in the layouts that llama.cpp's kernels read.

A block is a run of inputs of one output row with one fp16 scale d. Sources: ggml-quants.c and ggml-common.h of
llama.cpp; Q2_0 from pull request 24448.

    Q8_0  32 inputs, 34 bytes: d, 32 signed bytes                                    d * q,         q in -128 … 127
    Q5_0  32 inputs, 22 bytes: d, 32 fifth bits, 16 bytes of low and high nibbles    d * (q - 16),  q in 0 … 31
    Q4_0  32 inputs, 18 bytes: d, 16 bytes of low and high nibbles                   d * (q - 8),   q in 0 … 15
    Q2_0  64 inputs, 18 bytes: d, 16 bytes of four inputs each, low bits first       d * (q - 1),   q in 0 … 3

A nibble byte j holds input j in its low and input j + 16 in its high bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError

if TYPE_CHECKING:
    from ..quantization.quantized_matrix import QuantizedMatrix

Integers = NDArray[np.int16]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class BlockType:
    """A tensor type of GGML.

    Attributes:
        name: name as llama.cpp spells it.
        number: number of the type in a file.
        inputs: inputs per block; 1 for a type without blocks.
        block_bytes: bytes per block.
    """

    name: str
    number: int
    inputs: int
    block_bytes: int

    def row_bytes(self, columns: int) -> int:
        """Return the bytes of a row.

        Args:
            columns: inputs of the row, a multiple of `inputs`.
        """
        return columns // self.inputs * self.block_bytes


F32 = BlockType("F32", 0, 1, 4)
F16 = BlockType("F16", 1, 1, 2)
Q4_0 = BlockType("Q4_0", 2, 32, 18)
Q5_0 = BlockType("Q5_0", 6, 32, 22)
Q8_0 = BlockType("Q8_0", 8, 32, 34)
Q2_0 = BlockType("Q2_0", 42, 64, 18)
TYPES = {kind.number: kind for kind in (F32, F16, Q2_0, Q4_0, Q5_0, Q8_0)}
_FIVE_BITS = 5


def block_type(bits: int, size: int) -> BlockType:
    """Return the narrowest type that holds signed codes exactly.

    Args:
        bits: width of a code, 2 to 8.
        size: inputs that share a scale.
    """
    if bits == 2 and size % Q2_0.inputs == 0:
        return Q2_0
    return Q4_0 if bits <= 4 else Q5_0 if bits == _FIVE_BITS else Q8_0


def pack(module: str, matrix: QuantizedMatrix) -> tuple[BlockType, Bytes]:
    """Pack a matrix in blocks; every scale and code is kept.

    Args:
        module: name of the matrix, for messages.
        matrix: a matrix of form `symmetric` or `signed`.

    Returns:
        The type, and uint8 `[rows, bytes of a row]`.

    Raises:
        UsageError: the matrix has another form, or its inputs or groups are not a multiple of a block.
    """
    layout = matrix.layout
    zero = layout.fixed_zero
    if zero is None:
        raise UsageError(
            f"{module}: is stored with form {layout.form}; GGUF's blocks have only a scale. Plan again with "
            "`engine` llama-cpp, or with `forms` symmetric,signed."
        )
    rows, columns = matrix.codes.shape
    if columns % Q4_0.inputs:
        raise UsageError(
            f"{module}: has {columns} inputs; GGUF's blocks need a multiple of {Q4_0.inputs}. Use `engine` "
            "onnxruntime or openvino."
        )
    size = columns if layout.axis == "rows" else layout.group_size
    kind = block_type(layout.bits, size)
    if size % kind.inputs:
        raise UsageError(
            f"{module}: {size} inputs share a range; GGUF needs a multiple of {kind.inputs}. Plan again with "
            "`engine` llama-cpp."
        )
    scale = matrix.scale.numpy()
    if layout.axis == "rows":
        scale = np.repeat(scale, layout.group_size)[:, None]
    values = matrix.codes.numpy().astype(np.int16) - np.int16(zero)
    scales = np.repeat(scale, size // kind.inputs, axis=1).reshape(-1, 1)
    return kind, _blocks(kind, values.reshape(-1, kind.inputs), scales).reshape(rows, -1)


def unpack(kind: BlockType, data: Bytes) -> tuple[Integers, NDArray[np.float16]]:
    """Unpack blocks.

    Args:
        kind: their type.
        data: uint8 `[rows, bytes of a row]`.

    Returns:
        Signed codes `[rows, columns]` and scales `[rows, blocks]`.
    """
    rows = len(data)
    blocks = np.ascontiguousarray(data).reshape(-1, kind.block_bytes)
    scale = blocks[:, :2].copy().view(np.float16)
    rest = blocks[:, 2:]
    values: NDArray[Any]
    if kind is Q8_0:
        values = rest.view(np.int8).astype(np.int16)
    elif kind is Q2_0:
        values = (rest[:, :, None] >> np.array([0, 2, 4, 6], np.uint8) & 3).reshape(len(blocks), -1) - np.int16(1)
    else:
        nibbles = rest[:, -16:]
        values = np.concatenate([nibbles & 15, nibbles >> 4], 1).astype(np.int16)
        if kind is Q5_0:
            values += np.unpackbits(rest[:, :4], axis=1, bitorder="little").astype(np.int16) << 4
        values -= 16 if kind is Q5_0 else 8
    return values.astype(np.int16).reshape(rows, -1), scale.reshape(rows, -1)


def dequantize(kind: BlockType, data: Bytes) -> NDArray[np.float32]:
    """Return the values of rows, float32 `[rows, columns]`.

    Args:
        kind: their type.
        data: uint8 `[rows, bytes of a row]`.
    """
    if kind in (F32, F16):
        return np.ascontiguousarray(data).view(np.float32 if kind is F32 else np.float16).astype(np.float32)
    values, scale = unpack(kind, data)
    return values.astype(np.float32) * np.repeat(scale.astype(np.float32), kind.inputs, axis=1)


def _blocks(kind: BlockType, values: Integers, scale: NDArray[np.float16]) -> Bytes:
    """Return blocks, uint8 `[blocks, block_bytes]`, of signed codes `[blocks, inputs]`."""
    codes: NDArray[Any]
    if kind is Q8_0:
        codes = values.astype(np.int8).view(np.uint8)
    elif kind is Q2_0:
        # the type has one level below zero and two above: {-2, -1, 0, 1} is its mirror image
        if values.min(initial=0) < -1:
            values, scale = -values, -scale
        four = (values + 1).astype(np.uint8).reshape(len(values), -1, 4)
        codes = four[..., 0] | four[..., 1] << 2 | four[..., 2] << 4 | four[..., 3] << 6
    else:
        stored = (values + (16 if kind is Q5_0 else 8)).astype(np.uint8)
        codes = stored[:, :16] & 15 | (stored[:, 16:] & 15) << 4
        if kind is Q5_0:
            codes = np.concatenate([np.packbits(stored >> 4, axis=1, bitorder="little"), codes], 1)
    blocks: Bytes = np.concatenate([np.ascontiguousarray(scale, np.float16).view(np.uint8), codes], 1)
    return blocks
