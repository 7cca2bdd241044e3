"""Codes of 1 to 8 bits packed without a gap, lowest bit first, rounded up to a byte per tensor."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def pack(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Pack codes of any shape to `ceil(size * bits / 8)` bytes.

    Raises:
        ValueError: `bits` is not 1 to 8, or a code does not fit.

    >>> pack(np.array([1, 2, 3, 0], np.uint8), 2).tolist()
    [57]
    """
    _check_bits(bits)
    flat = np.ascontiguousarray(codes, dtype=np.uint8).reshape(-1)
    if flat.size and int(flat.max()) >= 1 << bits:
        raise ValueError(f"code {int(flat.max())} does not fit in {bits} bits")
    planes = np.unpackbits(flat[:, None], axis=1, count=bits, bitorder="little")
    return np.packbits(planes.reshape(-1), bitorder="little")


def unpack(packed: NDArray[np.uint8], bits: int, size: int) -> NDArray[np.uint8]:
    """Return the `size` codes that `pack` packed, uint8 `[size]`.

    Raises:
        ValueError: `bits` is not 1 to 8, or the bytes are not as many as `size` codes take.
    """
    _check_bits(bits)
    expected = packed_bytes(size, bits)
    if packed.size != expected:
        raise ValueError(f"{size} codes of {bits} bits take {expected} bytes, found {packed.size}")
    planes = np.unpackbits(packed.reshape(-1), count=size * bits, bitorder="little").reshape(size, bits)
    return np.packbits(planes, axis=1, bitorder="little").reshape(size)


def packed_bytes(size: int, bits: int) -> int:
    """Bytes of `size` packed codes."""
    return -(-size * bits // 8)


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= 8:
        raise ValueError(f"bits is {bits}; legal: 1 to 8")
