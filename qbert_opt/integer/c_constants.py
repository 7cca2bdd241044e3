"""The arrays of a C encoder, and how codes of few bits are packed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .folder import code_names
from .operations import width
from .program import Program

PACKED_BITS = (2, 4)  # codes are packed in the first of these widths that holds them; wider ones stay int8


@dataclass(frozen=True, slots=True)
class Constant:
    """An array of the C encoder.

    Attributes:
        identifier: name of the array in C.
        name: name of the program's constant.
        ctype: C type of an element.
        array: elements as they are written; each row of packed codes is padded to whole bytes.
        bits: bits of a packed code; 0 if the elements are not packed.
    """

    identifier: str
    name: str
    ctype: str
    array: NDArray[Any]
    bits: int = 0


def constant_of(program: Program, name: str, identifier: str) -> Constant:
    """Return a constant as it is written; codes of up to 4 bits are packed.

    Args:
        program: the program that reads it.
        name: name of the program's constant.
        identifier: name of the array in C.
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
    """Pack each row of signed codes separately, lowest bits first; half of the range is added to each code.

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
