"""A quantized matrix in the form that integer kernels use: codes, an integer zero point, scales, and a remainder.

We store `weight = scale * code + offset` with a float offset. Integer kernels compute `scale * (code - zero)` with an
integer zero point; with a float zero point both OpenVINO and ONNX Runtime fall back to float32. The exact identity

    scale * code + offset = scale * (code - zero) + rest,    rest = offset + scale * zero

has the same `rest` for every weight of a group, so `x @ weight.T` is the integer product plus the group sums of x times
`rest`: a float32 product with `columns / group_size` inputs. `rest` is 0 if the offset is a multiple of the scale.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..checkpoint.bits import pack
from ..errors import UsageError

if TYPE_CHECKING:
    from ..quantization.methods import QuantizedMatrix  # imports torch, which serving does not need
    from ..spec.planned import PlannedActivation

SMALLEST_INPUT_SCALE = 1e-12


@dataclass(frozen=True, slots=True)
class InputRange:
    """A static range for all inputs of a product: `scale * (code - zero)`, with unsigned codes.

    Attributes:
        scale: step between two codes.
        zero: the code that stands for 0.
        bits: width of a code.
    """

    scale: float
    zero: int
    bits: int = 8

    @property
    def ends(self) -> tuple[float, float]:
        """Values of the lowest and of the highest code."""
        return -self.zero * self.scale, (2**self.bits - 1 - self.zero) * self.scale


@dataclass(frozen=True, slots=True)
class AffineMatrix:
    """Codes with one range per output row and group of inputs.

    Attributes:
        bits: width of a stored code; codes are below `2**bits`.
        codes: uint8 `[rows, columns]`.
        scale: float16 `[rows, groups]`; one group if a range spans whole rows.
        zero: integer zero point, subtracted from the codes: one number, or uint8 `[rows, groups]`.
        offset: value of code 0, `[rows, groups]`, float16 as stored or float32; None if it equals `-scale * zero`.
        input: planned range of its inputs; None leaves activations to the engine.
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
        """The part of each offset that the zero point misses, float32 `[rows, groups]`; None without offsets."""
        if self.offset is None:
            return None
        return self.offset.astype(np.float32) + self.scale.astype(np.float32) * np.float32(self.zero)

    @property
    def first_value(self) -> NDArray[np.floating]:
        """Value of code 0 of each group, `[rows, groups]`: float16 where that is exact, else float32."""
        if self.offset is not None:
            return self.offset
        wide = -(self.scale.astype(np.float32) * np.float32(self.zero))
        with np.errstate(over="ignore"):
            half = wide.astype(np.float16)
        return half if np.array_equal(half.astype(np.float32), wide) else wide

    def dequantize(self) -> NDArray[np.float32]:
        """Return the weights, float32 `[rows, columns]`."""
        groups = self.codes.reshape(self.rows, -1, self.group_size).astype(np.float32)
        zero = self.zero if isinstance(self.zero, int) else self.zero[..., None].astype(np.float32)
        weight = (groups - zero) * self.scale.astype(np.float32)[..., None]
        rest = self.rest
        return (weight if rest is None else weight + rest[..., None]).reshape(self.rows, self.columns)


def affine(name: str, matrix: QuantizedMatrix) -> AffineMatrix:
    """Convert a quantized matrix to the form of integer kernels.

    Args:
        name: name of the matrix, for messages.
        matrix: the matrix as it is stored.

    Returns:
        The same weights, exactly; row groups become one range per row.

    Raises:
        UsageError: the matrix is stored with a codebook; names it.
    """
    layout = matrix.layout
    if matrix.codebook is not None:
        raise UsageError(
            f"{name}: is stored with form {layout.form}, whose values are arbitrary: integer kernels cannot run it. "
            "Run it with `engine` torch, or plan with `forms` offset,symmetric,signed,zero-point."
        )
    scale, offset, zero = matrix.scale.numpy(), matrix.offset.numpy(), matrix.zero.numpy()
    if layout.axis == "rows":
        scale, offset, zero = (np.repeat(part, layout.group_size)[:, None] for part in (scale, offset, zero))
    codes = matrix.codes.numpy()
    if layout.form == "offset":
        return AffineMatrix(layout.bits, codes, scale, 2 ** (layout.bits - 1), offset)
    same = bool((zero == zero.flat[0]).all())
    return AffineMatrix(layout.bits, codes, scale, int(zero.flat[0]) if same else zero, None)


def with_planned_input(
    name: str, matrix: AffineMatrix, planned: PlannedActivation, *, bits: tuple[int, ...] = (8,), groups: bool = False
) -> AffineMatrix:
    """Add the planned input range to a matrix, and make its codes minus the zero point fit into signed bytes.

    Args:
        name: name of the matrix, for messages.
        matrix: has at most one range per output row, unless `groups`.
        planned: how the plan rounds the inputs, with a static range.
        bits: widths of inputs that the kernels support.
        groups: whether the kernels support several ranges per output row for such inputs.

    Returns:
        The matrix with `input` set.

    Raises:
        UsageError: integer kernels cannot round the inputs in this way; names the matrix.
    """
    alternative = "Use `activations` int8 to let the engine round the inputs in its own way."
    if planned.low is None or planned.high is None:
        raise UsageError(f"{name}: its inputs are rounded per token, which LiteRT alone does. {alternative}")
    if planned.bits not in bits:
        held = " or ".join(map(str, bits))
        raise UsageError(
            f"{name}: its inputs have {planned.bits} bits; integer kernels here need {held}. {alternative}"
        )
    if matrix.scale.shape[1] > 1 and not groups:
        raise UsageError(
            f"{name}: columns:{matrix.group_size} has several ranges per output row; static input ranges need one. "
            f"Plan with `groupings` rows:1,rows:heads,rows:128,rows:each. {alternative}"
        )
    low, high = min(planned.low, 0.0), max(planned.high, 0.0)
    scale = max((high - low) / (2**planned.bits - 1), SMALLEST_INPUT_SCALE)
    input_range = InputRange(scale, round(-low / scale), planned.bits)
    zero = matrix.zero
    signed = isinstance(zero, int) and zero <= 128 and int(matrix.codes.max()) - zero <= 127
    if matrix.bits == 8 and not signed:  # 8-bit zero points do not fit: `rest` takes them
        wide = -matrix.scale.astype(np.float32) * np.asarray(matrix.zero, np.float32)
        return replace(matrix, zero=128, offset=wide, input=input_range)
    return replace(matrix, input=input_range)


def container_bits(bits: int) -> int:
    """Return the width of the narrowest container that engines have for a code: 2, 4 or 8 bits, 4 for 3-bit codes.

    Args:
        bits: width of a code, 1 to 8.
    """
    return next(width for width in (2, 4, 8) if width >= bits)


def row_container_bits(bits: int, columns: int) -> int:
    """Return the width of the narrowest container in which rows of codes fill whole bytes.

    OpenVINO's float kernels misread packed rows that end within a byte, and tables are looked up row by row.

    Args:
        bits: width of a code, 1 to 8.
        columns: codes of a row.
    """
    return next(width for width in (2, 4, 8) if width >= bits and columns * width % 8 == 0)


def planes(table: AffineMatrix) -> tuple[int, NDArray[np.uint8]]:
    """Return the width of a packed code, and the codes of a table packed plane by plane.

    A row of bytes stores the first columns in its lowest bits, the next ones in the bits above, and so on. Whole rows
    of codes are thus unpacked in a few steps; neighbouring columns in one byte would have to be interleaved again.

    Args:
        table: the table.

    Returns:
        2, 4 or 8 bits, and uint8 `[rows, columns * bits / 8]`.
    """
    width = row_container_bits(table.bits, table.columns)
    split = table.codes.reshape(table.rows, 8 // width, -1)
    return width, pack(split.transpose(0, 2, 1), width).reshape(table.rows, -1)
