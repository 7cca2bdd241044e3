"""A quantized matrix as integer engines take it: codes, an integer zero, scales per group, and what that leaves over.

We store `weight = scale * code + offset` with a float offset. Integer kernels want `scale * (code - zero)` with an
integer zero; a float zero is run in float32 by OpenVINO and ONNX Runtime alike. The exact identity

    scale * code + offset = scale * (code - zero) + rest,    rest = offset + scale * zero

has the same `rest` for every weight of a group, so `x @ weight.T` is the integer product plus the group sums of x times
`rest`: a product with `columns / group_size` inputs, in float32. It vanishes where the offset is on the grid.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError

if TYPE_CHECKING:
    from ..quantization.methods import QuantizedMatrix  # brings torch along, which serving does without
    from ..spec.allocation import PlannedActivation

SMALLEST_INPUT_SCALE = 1e-12


@dataclass(frozen=True, slots=True)
class InputRange:
    """One range for all inputs of a product, found before it runs: `scale * (code - zero)`, codes of 8 bits."""

    scale: float
    zero: int

    @property
    def ends(self) -> tuple[float, float]:
        """Values of the lowest and the highest code."""
        return -self.zero * self.scale, (255 - self.zero) * self.scale


@dataclass(frozen=True, slots=True)
class AffineMatrix:
    """Codes with ranges per output row and group of inputs.

    Attributes:
        bits: of one code as stored; codes are below `2**bits`.
        codes: uint8 `[rows, columns]`.
        scale: float16 `[rows, groups]`; one group where a range spans whole rows.
        zero: integer that is subtracted from codes: a number, or uint8 `[rows, groups]`.
        offset: float16 as stored (or float32) `[rows, groups]`, value of code 0; None where it is `-scale * zero`.
        input: how its inputs are rounded where a plan says it; None leaves that to the engine.
    """

    bits: int
    codes: NDArray[np.uint8]
    scale: NDArray[np.float16]
    zero: int | NDArray[np.uint8]
    offset: NDArray[np.floating] | None
    input: InputRange | None = None

    @property
    def rows(self) -> int:
        """Outputs of the matrix."""
        return int(self.codes.shape[0])

    @property
    def columns(self) -> int:
        """Inputs of the matrix."""
        return int(self.codes.shape[1])

    @property
    def group_size(self) -> int:
        """Inputs that share a scale."""
        return int(self.codes.shape[1] // self.scale.shape[1])

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


def with_planned_input(name: str, matrix: AffineMatrix, planned: PlannedActivation) -> AffineMatrix:
    """Give a matrix the input range of its plan; its codes less their zero then fit signed bytes.

    Raises:
        UsageError: integer products cannot round its inputs in this way; names it.
    """
    own = "--activations int8 rounds inputs in the engine's own way instead."
    if planned.low is None or planned.high is None:
        raise UsageError(
            f"{name}: its inputs are rounded per token, which no engine here does with packed weights. {own}"
        )
    if planned.bits != 8:
        raise UsageError(f"{name}: its inputs have {planned.bits} bits; integer products here take 8. {own}")
    if matrix.scale.shape[1] > 1:
        raise UsageError(
            f"{name}: columns:{matrix.group_size} has several ranges per output; products with one range of inputs "
            f"take one. Plan with --groupings rows:1,rows:heads,rows:128,rows:each. {own}"
        )
    low, high = min(planned.low, 0.0), max(planned.high, 0.0)
    scale = max((high - low) / 255, SMALLEST_INPUT_SCALE)
    found = InputRange(scale, round(-low / scale))
    zero = matrix.zero
    signed = isinstance(zero, int) and zero <= 128 and int(matrix.codes.max()) - zero <= 127
    if matrix.bits == 8 and not signed:  # zero points of 8 bits: the rest carries them
        wide = -matrix.scale.astype(np.float32) * np.asarray(matrix.zero, np.float32)
        return replace(matrix, zero=128, offset=wide, input=found)
    return replace(matrix, input=found)


def container_bits(bits: int) -> int:
    """Bits of the narrowest container of engines: 2, 4 or 8; 3 bits take 4."""
    return next(width for width in (2, 4, 8) if width >= bits)
