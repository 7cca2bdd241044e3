"""Codes of 1 to 8 bits packed without a gap, lowest bit first, rounded up to a byte per tensor.

Eight codes make one 64-bit word with a code in each byte, and `bits` packed bytes. Three steps of shift and mask move
neighbours together: bytes to pairs, pairs to fours, fours to eight. Both ways work on blocks that stay in cache.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 16  # codes at a time, a multiple of 8
STEPS = (
    (8, np.uint64(0x00FF00FF00FF00FF)),
    (16, np.uint64(0x0000FFFF0000FFFF)),
    (32, np.uint64(0x00000000FFFFFFFF)),
)


def pack(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Pack codes of any shape to `ceil(size * bits / 8)` bytes.

    Args:
        codes: uint8 of any shape, each below 2**bits.
        bits: width of a code, 1 to 8.

    Raises:
        ValueError: `bits` is not 1 to 8, or a code does not fit.

    >>> pack(np.array([1, 2, 3, 0], np.uint8), 2).tolist()
    [57]
    """
    _check_bits(bits)
    flat = np.ascontiguousarray(codes, dtype=np.uint8).reshape(-1)
    if flat.size and int(flat.max()) >= 1 << bits:
        raise ValueError(f"code {int(flat.max())} does not fit in {bits} bits")
    if bits == 8:
        return flat.copy()
    packed = np.empty((-(-flat.size // 8), bits), np.uint8)
    words, other = np.empty(BLOCK // 8, "<u8"), np.empty(BLOCK // 8, "<u8")
    for start in range(0, flat.size, BLOCK):
        part = flat[start : start + BLOCK]
        count = -(-part.size // 8)
        word, high = words[:count], other[:count]
        word[-1] = 0  # codes that fill up the last word
        word.view(np.uint8)[: part.size] = part
        for width, low in STEPS:
            np.bitwise_and(word, ~low, out=high)
            np.right_shift(high, np.uint64(width // 8 * (8 - bits)), out=high)
            np.bitwise_and(word, low, out=word)
            np.bitwise_or(word, high, out=word)
        _lanes(packed, bits)[start // 8 : start // 8 + count] = _lanes(word, bits)[:, : bits // _item(bits)]
    return packed.reshape(-1)[: packed_bytes(flat.size, bits)]


def unpack(packed: NDArray[np.uint8], bits: int, size: int) -> NDArray[np.uint8]:
    """Return the `size` codes that `pack` packed, uint8 `[size]`.

    Args:
        packed: uint8, as `pack` returned it.
        bits: width of a code, 1 to 8.
        size: number of codes.

    Raises:
        ValueError: `bits` is not 1 to 8, or the bytes are not as many as `size` codes take.
    """
    _check_bits(bits)
    expected = packed_bytes(size, bits)
    if packed.size != expected:
        raise ValueError(f"{size} codes of {bits} bits take {expected} bytes, found {packed.size}")
    flat = packed.reshape(-1)
    if bits == 8:
        return flat.copy()
    codes = np.empty(-(-size // 8), "<u8")
    other = np.empty(BLOCK // 8, "<u8")
    for start in range(0, len(codes), BLOCK // 8):
        word = codes[start : start + BLOCK // 8]
        high = other[: len(word)]
        part = flat[start * bits : (start + len(word)) * bits]
        whole = part.size // bits
        word[:] = 0
        _lanes(word[:whole], bits)[:, : bits // _item(bits)] = _lanes(part[: whole * bits].reshape(-1, bits), bits)
        if whole < len(word):  # the last word is cut off at a byte
            word[-1:].view(np.uint8)[: part.size - whole * bits] = part[whole * bits :]
        for width, low in reversed(STEPS):
            np.left_shift(word, np.uint64(width // 8 * (8 - bits)), out=high)
            np.bitwise_and(high, ~low, out=high)
            np.bitwise_and(word, _lower_codes(width, bits), out=word)
            np.bitwise_or(word, high, out=word)
    return codes.view(np.uint8)[:size]


def packed_bytes(size: int, bits: int) -> int:
    """Bytes of `size` packed codes.

    Args:
        size: number of codes.
        bits: width of a code, 1 to 8.
    """
    return -(-size * bits // 8)


def _item(bits: int) -> int:
    """Bytes that are moved at once: as many as divide both a word and its packed form."""
    return bits & -bits


def _lanes(memory: NDArray[np.uint8] | NDArray[np.uint64], bits: int) -> NDArray[np.unsignedinteger]:
    """View rows of 8 or of `bits` bytes as rows of items."""
    rows = memory if memory.ndim == 2 else memory[:, None]
    return rows.view(f"<u{_item(bits)}")


def _lower_codes(width: int, bits: int) -> np.uint64:
    """Mask of the lower `width // 8` codes in each lane of `2 * width` bits, where they lie close together."""
    ones = (1 << width // 8 * bits) - 1
    return np.uint64(sum(ones << lane for lane in range(0, 64, 2 * width)))


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= 8:
        raise ValueError(f"bits is {bits}; legal: 1 to 8")
