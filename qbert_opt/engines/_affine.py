"""A quantized matrix as integer engines take it: codes, an integer zero, scales per group, and what that leaves over.

We store `weight = scale * code + offset` with a float offset. Integer kernels want `scale * (code - zero)` with an
integer zero; a float zero is run in float32 by OpenVINO and ONNX Runtime alike. The exact identity

    scale * code + offset = scale * (code - zero) + rest,    rest = offset + scale * zero

has the same `rest` for every weight of a group, so `x @ weight.T` is the integer product plus the group sums of x times
`rest`: a product with `columns / group_size` inputs, in float32. It vanishes where the offset is on the grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError

if TYPE_CHECKING:
    from ..quantizers import QuantizedMatrix  # brings torch along, which serving does without


@dataclass(frozen=True, slots=True)
class AffineMatrix:
    """Codes with ranges per output row and group of inputs.

    Attributes:
        bits: of one code as stored; codes are below `2**bits`.
        codes: uint8 `[rows, columns]`.
        scale: float16 `[rows, groups]`; one group where a range spans whole rows.
        zero: integer that is subtracted from codes: a number, or uint8 `[rows, groups]`.
        offset: float16 `[rows, groups]`, value of code 0; None where `-scale * zero` says it exactly.
    """

    bits: int
    codes: NDArray[np.uint8]
    scale: NDArray[np.float16]
    zero: int | NDArray[np.uint8]
    offset: NDArray[np.float16] | None

    @property
    def rows(self) -> int:
        """Outputs of the matrix."""
        return self.codes.shape[0]

    @property
    def columns(self) -> int:
        """Inputs of the matrix."""
        return self.codes.shape[1]

    @property
    def group_size(self) -> int:
        """Inputs that share a scale."""
        return self.codes.shape[1] // self.scale.shape[1]

    @property
    def rest(self) -> NDArray[np.float32] | None:
        """What the integer zero leaves of each group's offset, float32 `[rows, groups]`; None where nothing."""
        if self.offset is None:
            return None
        return self.offset.astype(np.float32) + self.scale.astype(np.float32) * np.float32(self.zero)

    def dequantize(self) -> NDArray[np.float32]:
        """Return float32 `[rows, columns]`."""
        groups = self.codes.reshape(self.rows, -1, self.group_size).astype(np.float32)
        zero = self.zero if isinstance(self.zero, int) else self.zero[..., None].astype(np.float32)
        weight = (groups - zero) * self.scale.astype(np.float32)[..., None]
        rest = self.rest
        return (weight if rest is None else weight + rest[..., None]).reshape(self.rows, self.columns)


def affine(name: str, matrix: QuantizedMatrix) -> AffineMatrix:
    """Bring a quantized matrix to the form of integer engines.

    Raises:
        UsageError: it is stored in a form that is not affine; names it.
    """
    layout = matrix.layout
    if matrix.codebook is not None:
        raise UsageError(
            f"{name}: has form {layout.form}, whose levels lie anywhere: integer engines cannot run it. "
            "Run it with --engine torch, or plan with --forms offset,symmetric,zero-point."
        )
    scale, offset, zero = matrix.scale.numpy(), matrix.offset.numpy(), matrix.zero.numpy()
    if layout.axis == "rows":
        scale, offset, zero = (np.repeat(part, layout.group_size)[:, None] for part in (scale, offset, zero))
    codes = matrix.codes.numpy()
    if layout.form == "offset":
        return AffineMatrix(layout.bits, codes, scale, 2 ** (layout.bits - 1), offset)
    same = bool((zero == zero.flat[0]).all())
    return AffineMatrix(layout.bits, codes, scale, int(zero.flat[0]) if same else zero, None)


def container_bits(bits: int) -> int:
    """Bits of the narrowest container of engines: 2, 4 or 8; 3 bits take 4."""
    return next(width for width in (2, 4, 8) if width >= bits)
