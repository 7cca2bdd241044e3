"""Pack codes 0, 1 and 2 five to a byte: `c0 + 3 c1 + 9 c2 + 27 c3 + 81 c4`, at most 242.

The last byte is filled up with zeros.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..spec.forms import TRITS_PER_BYTE

LEVELS = 3
POWERS = LEVELS ** np.arange(TRITS_PER_BYTE, dtype=np.uint8)
DIGITS = (np.arange(LEVELS**TRITS_PER_BYTE)[:, None] // POWERS % LEVELS).astype(np.uint8)
"""The five codes of each byte, `[243, 5]`."""


def pack_trits(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pack codes of any shape to `ceil(size / 5)` bytes.

    Args:
        codes: uint8 of any shape, each below 3.

    Raises:
        ValueError: a code is 3 or more.

    >>> pack_trits(np.array([1, 2, 0, 0, 2, 1], np.uint8)).tolist()
    [169, 1]
    """
    flat = np.ascontiguousarray(codes, dtype=np.uint8).reshape(-1)
    if flat.size and int(flat.max()) >= LEVELS:
        raise ValueError(f"code {int(flat.max())} is not one of three")
    padded = np.zeros((-(-flat.size // TRITS_PER_BYTE), TRITS_PER_BYTE), np.uint8)
    padded.reshape(-1)[: flat.size] = flat
    packed = np.zeros(len(padded), np.uint8)
    for place in range(TRITS_PER_BYTE):
        packed += padded[:, place] * POWERS[place]
    return packed


def unpack_trits(packed: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return the `size` codes that `pack_trits` packed, uint8 `[size]`.

    Args:
        packed: uint8, as `pack_trits` returned it.
        size: number of codes.

    Raises:
        ValueError: `packed` does not have the length of `size` codes, or a byte holds no five codes.
    """
    flat = packed.reshape(-1)
    expected = -(-size // TRITS_PER_BYTE)
    if flat.size != expected:
        raise ValueError(f"{size} ternary codes take {expected} bytes, found {flat.size}")
    if flat.size and int(flat.max()) >= len(DIGITS):
        raise ValueError(f"byte {int(flat.max())} holds no five ternary codes; at most {len(DIGITS) - 1} does")
    return DIGITS[flat].reshape(-1)[:size]
