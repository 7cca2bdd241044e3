"""Our codes as LiteRT's kernels read them: int8, int4 and int2, one scale per row or per block of inputs.

A code is a signed integer times a scale, without a zero point. Two int4 or four int2 stand in a byte, low bits first,
rows one after the other. Sources: tensorflow/lite/core/c/common.h, kernels/internal/portable_tensor_utils.h.

    int8   -127 … 127 per row
    int4   -7 … 7 per row, or per block of 32, 64, 128 or 256 inputs: some kernels compute -8 wrongly
    int2   -2 … 1 per row; for blocks there is no kernel, and the one that runs instead returns noise
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from .affine import container_bits

if TYPE_CHECKING:
    from ..quantization.quantized_matrix import QuantizedMatrix

Bytes = NDArray[np.uint8]
BLOCKS = (256, 128, 64, 32)
"""Block sizes that the kernels support, largest first."""
BLOCK_BITS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """A matrix in codes.

    Attributes:
        bits: width of a code: 8, 4 or 2.
        shape: rows and columns.
        data: uint8, packed.
        scale: float32 `[rows]`, or float16 `[rows, blocks]`.
    """

    bits: int
    shape: tuple[int, int]
    data: Bytes
    scale: NDArray[np.float32] | NDArray[np.float16]

    @property
    def block(self) -> int | None:
        """Number of inputs that share a scale; None if a whole row does."""
        return None if self.scale.ndim == 1 else self.shape[1] // self.scale.shape[1]


def pack(module: str, matrix: QuantizedMatrix) -> Codes:
    """Pack a matrix in LiteRT's codes; every scale and code is kept.

    Args:
        module: name of the matrix, for messages.
        matrix: a matrix of form `symmetric` or `signed`.

    Raises:
        UsageError: the matrix has another form, a group size that no block size divides, 2 or more than 4 bits in
            blocks, or rows that do not fill whole bytes.
    """
    again = "Plan again with `engine` litert."
    layout = matrix.layout
    zero = layout.fixed_zero
    if zero is None:
        raise UsageError(f"{module}: is stored with form {layout.form}; LiteRT's codes have only a scale. {again}")
    rows, columns = matrix.codes.shape
    bits = container_bits(layout.bits)
    values = matrix.codes.numpy().astype(np.int16) - np.int16(zero)
    if bits == BLOCK_BITS and layout.bits == BLOCK_BITS and values.min(initial=0) < -7:
        raise UsageError(f"{module}: has the code -8, which some of LiteRT's 4-bit kernels compute wrongly. {again}")
    if columns * bits % 8:
        raise UsageError(f"{module}: {columns} codes of {bits} bits do not fill whole bytes. {again}")
    scale = matrix.scale.numpy()
    if layout.axis == "rows":
        return Codes(bits, (rows, columns), _packed(values, bits), np.repeat(scale, layout.group_size).astype("f4"))
    size = layout.group_size
    if size == columns:
        return Codes(bits, (rows, columns), _packed(values, bits), scale.reshape(rows).astype("f4"))
    block = next((block for block in BLOCKS if size % block == 0), None)
    if bits != BLOCK_BITS or block is None:
        raise UsageError(
            f"{module}: {layout.bits} bits in columns:{size}; LiteRT has blocks of {', '.join(map(str, BLOCKS[::-1]))} "
            f"inputs at 3 and 4 bits. {again}"
        )
    return Codes(bits, (rows, columns), _packed(values, bits), np.repeat(scale, size // block, axis=1))


def unpack(codes: Codes) -> NDArray[np.int8]:
    """Return signed codes, int8 `[rows, columns]`.

    Args:
        codes: packed.
    """
    if codes.bits == 8:
        return codes.data.view(np.int8).reshape(codes.shape)
    shifts = np.arange(0, 8, codes.bits, dtype=np.uint8)
    high = 8 - codes.bits
    moved = (codes.data[:, None] >> shifts << np.uint8(high)).view(np.int8)  # moves the sign bit to the top
    return (moved >> np.int8(high)).reshape(codes.shape)


def dequantize(codes: Codes) -> NDArray[np.float32]:
    """Return the weights, float32 `[rows, columns]`.

    Args:
        codes: packed.
    """
    rows, columns = codes.shape
    scale = codes.scale.astype(np.float32).reshape(rows, -1)
    return unpack(codes).astype(np.float32) * np.repeat(scale, columns // scale.shape[1], axis=1)


def _packed(values: NDArray[np.int16], bits: int) -> Bytes:
    stored = (values & ((1 << bits) - 1)).astype(np.uint8).reshape(-1, 8 // bits)
    packed: Bytes = np.bitwise_or.reduce(stored << np.arange(0, 8, bits, dtype=np.uint8), axis=1)
    return packed
