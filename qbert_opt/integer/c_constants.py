"""The arrays of a C encoder, and how codes of few bits are packed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .folder import code_names
from .operations import width
from .program import Program

PACKED_BITS = (2, 4)  # codes of so many bits or fewer share bytes


@dataclass(frozen=True, slots=True)
class Constant:
    """An array of the C encoder.

    Attributes:
        identifier: in C.
        name: of the program's constant.
        ctype: of an element.
        array: what is written: two-dimensional codes have one row per row, padded to whole bytes.
        bits: of a code, where several share a byte; 0 for plain numbers.
    """

    identifier: str
    name: str
    ctype: str
    array: NDArray[Any]
    bits: int = 0


def constant_of(program: Program, name: str, identifier: str) -> Constant:
    """Return a constant as it is written: codes of few bits share bytes.

    Args:
        program: that reads it.
        name: of the program's constant.
        identifier: in C.
    """
    array = program.constants[name]
    ctype = f"{array.dtype.name}_t"
    if name not in code_names(program.operations):
        return Constant(identifier, name, ctype, array)
    used = width(int(array.min()), int(array.max()))
    bits = next((bits for bits in PACKED_BITS if used <= bits), 0)
    if not bits:
        return Constant(identifier, name, ctype, array)
    return Constant(identifier, name, "uint8_t", packed_rows(array, bits), bits)


def packed_rows(codes: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Pack each row of signed codes by itself, lowest bits first, each code plus half of its range.

    Args:
        codes: `[rows, columns]`.
        bits: 2 or 4.

    >>> packed_rows(np.array([[-8, 7, 0]]), 4).tolist()
    [[240, 8]]
    """
    per_byte = 8 // bits
    shifted = (codes.astype(np.int16) + 2 ** (bits - 1)).astype(np.uint8)
    padded = np.pad(shifted, ((0, 0), (0, -codes.shape[1] % per_byte)))
    parts = padded.reshape(len(codes), -1, per_byte) << (bits * np.arange(per_byte, dtype=np.uint8))
    packed: NDArray[np.uint8] = np.bitwise_or.reduce(parts, axis=-1)
    return packed
