"""Matrices and tables of a model as constants of a program.

A stored weight is `scale * code + offset`, with one scale and one offset per group. Let w be the code minus a constant
that makes it signed at the same width. Up to rounding, the weight is then `unit[r] * (k[r, g] * w + o[r, g])`, with one
real unit per output row and integers k and o, so a row needs only one requantization, however many groups it has. If 32
bits do not hold a group's sum times k, as with 16-bit inputs, that product has 64 bits and is shifted before the groups
are added up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..quantization.quantized_matrix import QuantizedMatrix
from .builder import Builder, Grid
from .intervals import OverflowFound
from .operations import INT32, Embed, Value

FACTOR_BITS = 14  # of the largest factor in a row
SHIFTS = range(32)  # of a group's sum times its factor, to choose from
BIAS_LIMIT = 2.0**28  # largest bias, in units of the sum that it is added to
WHOLE = 1e-4  # how far a zero point may be from an integer and still count as one
HEAD_TOP = 127  # largest code of a matrix that the plan does not quantize


@dataclass(frozen=True, slots=True)
class Codes:
    """Weights `scale * w + rest`.

    Attributes:
        w: signed codes, int8 `[rows, columns]`.
        scale: float64 `[rows, groups]`.
        rest: float64 `[rows, groups]`.
    """

    w: NDArray[np.int8]
    scale: NDArray[np.float64]
    rest: NDArray[np.float64]


def signed_codes(name: str, stored: QuantizedMatrix) -> Codes:
    """Return a stored matrix or table with signed codes of the same width.

    Args:
        name: name of the matrix, for messages.
        stored: the matrix.

    Raises:
        UsageError: it is stored with a codebook, whose values are not integers times a scale; or a scale is not
            positive.
    """
    layout = stored.layout
    if stored.codebook is not None:
        raise UsageError(f"{name}: form {layout.form} has no integer form: its values are arbitrary. Plan with `forms` "
                         "offset,symmetric,signed,zero-point,ternary.")  # fmt: skip
    scale, offset = stored.scale.numpy().astype(np.float64), stored.offset.numpy().astype(np.float64)
    if layout.axis == "rows":
        scale, offset = (np.repeat(part, layout.group_size)[:, None] for part in (scale, offset))
    middle = 2 ** (layout.bits - 1) if layout.fixed_zero is None else layout.fixed_zero
    w = (stored.codes.numpy().astype(np.int16) - middle).astype(np.int8)
    if not (scale > 0).all():
        raise UsageError(f"{name}: a scale is {scale.min():g}. Quantize the model again.")
    return Codes(w, scale, offset + scale * middle)


def rounded(weight: NDArray[np.floating]) -> Codes:
    """Round a float matrix to 8 bits with one symmetric range per row.

    Args:
        weight: `[rows, columns]`.
    """
    largest = np.abs(weight).max(1, keepdims=True).astype(np.float64)
    scale = np.where(largest > 0, largest, 1.0) / HEAD_TOP
    return Codes(np.round(weight / scale).astype(np.int8), scale, np.zeros_like(scale))


def add_linear(builder: Builder, name: str, x: Value, codes: Codes, bias: NDArray[np.floating] | None) -> Value:
    """Add `x @ weight.T + bias`; `builder.scales` gets the real unit of each output row.

    Args:
        builder: builder of the program.
        name: name of the result.
        x: integers `[..., columns]` with a scale and a zero point.
        codes: the weights.
        bias: real numbers `[rows]`; None for no bias.

    Raises:
        OverflowFound: some input needs more than 32 bits, whatever the precision of the factors.
    """
    unit = float(builder.scale_of(x))
    added = np.zeros(len(codes.w)) if bias is None else bias.astype(np.float64)
    ratios = codes.rest / codes.scale
    smallest = np.abs(added) / (unit * BIAS_LIMIT)
    whole = codes.scale.shape[1] == 1 and np.abs(ratios - np.round(ratios)).max() < WHOLE
    if whole and (codes.scale[:, 0] >= smallest).all():
        return _linear(builder, name, x, codes.w, None, np.round(ratios), codes.scale[:, 0], added)
    ways = [_Factors.of(codes, shift, smallest / 2.0**shift) for shift in SHIFTS]
    parts = codes.w.reshape(*codes.scale.shape, -1)
    lengths = np.sqrt(np.square(parts, dtype=np.float64).sum(2))
    for way in sorted(ways, key=lambda way: way.error(codes, lengths, parts.shape[2], x.high - x.low)):
        try:
            return _linear(builder, name, x, codes.w, way.factors, way.sums, way.rows[:, 0], added, way.shift)
        except OverflowFound as error:
            overflow = error
    raise overflow


@dataclass(frozen=True)
class _Factors:
    """Integer factors of the groups, for one shift.

    Attributes:
        shift: shift of a group's sum times its factor.
        rows: real unit of a row's factors, `[rows, 1]`.
        factors: scale of each group in this unit, `[rows, groups]`.
        sums: what is added to each weight of a group, in this unit, `[rows, groups]`.
    """

    shift: int
    rows: NDArray[np.float64]
    factors: NDArray[np.float64]
    sums: NDArray[np.float64]

    @staticmethod
    def of(codes: Codes, shift: int, smallest: NDArray[np.float64]) -> _Factors:
        rows = np.maximum(codes.scale.max(1) / 2**FACTOR_BITS, smallest)[:, None]
        return _Factors(shift, rows, np.round(codes.scale / rows), np.round(codes.rest / rows))

    def error(self, codes: Codes, lengths: NDArray[np.float64], size: int, span: int) -> float:
        """Estimate the largest error of a row, in units of the input.

        With a large bias, a small shift leaves the factors too few bits; a large one rounds the groups' sums coarsely.

        Args:
            codes: the weights.
            lengths: Euclidean length of each group's codes, `[rows, groups]`.
            size: number of codes in a group.
            span: number of steps in the range of the input.
        """
        of_codes = np.abs(codes.scale - self.factors * self.rows) * lengths
        of_inputs = np.abs(codes.rest - self.sums * self.rows) * np.sqrt(size)
        rounding = self.rows[:, 0] * 2.0**self.shift * np.sqrt(codes.scale.shape[1]) if self.shift else 0.0
        return float(((of_codes + of_inputs).sum(1) * span + rounding).max())


def _linear(
    builder: Builder,
    name: str,
    x: Value,
    w: NDArray[np.int8],
    factors: NDArray[np.float64] | None,
    sums: NDArray[np.float64],
    rows: NDArray[np.float64],
    bias: NDArray[np.float64],
    shift: int = 0,
) -> Value:
    """Add the product; the zero point of x and the bias become one integer per row."""
    size = w.shape[1] // sums.shape[1]
    per_group = w.reshape(len(w), -1, size).sum(2, dtype=np.int64).astype(np.float64)
    row_sums = (per_group * (1 if factors is None else factors) + size * sums).sum(1)
    units = rows * float(builder.scale_of(x)) * 2.0**shift
    folded = np.round(bias / units) - np.round(x.zero * row_sums * 2.0**-shift)
    if max(np.abs(folded).max(), np.abs(sums).max()) > INT32:
        raise OverflowFound(f"{name}: its bias and its input's zero point together do not fit 32 bits")
    kept = {"weights": w, "factors": factors, "sums": sums if sums.any() else None}
    kept["bias"] = folded if folded.any() else None
    named = {part: None if array is None else f"{name}.{part}" for part, array in kept.items()}
    for part, array in kept.items():
        if array is not None:
            builder.constants[f"{name}.{part}"] = array.astype(np.int8 if part == "weights" else np.int32)
    return builder.linear(name, x, units, shift, **named)


def add_embedding(builder: Builder, name: str, index: Value, codes: Codes, to: Grid) -> Value:
    """Look up rows of a table, with the result on a given scale.

    Args:
        builder: builder of the program.
        name: name of the result.
        index: row numbers.
        codes: the table.
        to: grid that gives the scale of the result; the result does not saturate at the grid's ends.

    Raises:
        OverflowFound: the table has numbers too large for the scale.
    """
    table = builder.constant(f"{name}.codes", codes.w)
    for shift in range(14, -1, -1):
        factors, offsets = (np.round(part / to.scale * 2.0**shift) for part in (codes.scale, codes.rest))
        if max(np.abs(factors).max(), np.abs(offsets).max()) > INT32:
            continue
        builder.constants[f"{name}.factors"] = factors.astype(np.int32)
        builder.constants[f"{name}.offsets"] = offsets.astype(np.int32)
        try:
            return builder.emit(
                Embed, name, (*index.shape, codes.w.shape[1]), scale=to.scale, codes=table, index=index.name,
                factors=f"{name}.factors", offsets=f"{name}.offsets", shift=shift,
            )  # fmt: skip
        except OverflowFound:
            continue
    raise OverflowFound(f"{name}: on the scale of the calibration set, its table has numbers that 32 bits do not hold")
