"""OpenVINO graphs of quantized matrices. Imports OpenVINO, so this module is imported inside functions only.

The CPU plugin keeps this pattern packed in memory and runs it with integer kernels:
Constant(u2|u4|u8) → Convert(f16) → Subtract(zero) → Multiply(scale) → Reshape → Convert(f32) → MatMul.
Row groups become one scale per output row, because the plugin misreads a scale per group of rows.

For inputs with a planned range: FakeQuantize on the input, and Constant(u2|u4) → Convert(i8) → Subtract(zero) →
Convert(f32) → Multiply(scale) as the weight. The compiler folds it to bytes and multiplies 8-bit integers; this is the
fastest variant.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checkpoint.bits import pack
from .affine import AffineMatrix, InputRange, planes, row_container_bits
from .quiet_openvino import op, ov

TYPES = {2: ov.Type.u2, 4: ov.Type.u4, 8: ov.Type.u8}


class Weights:
    """Creates constants and keeps their arrays alive, because OpenVINO does not copy them."""

    def __init__(self) -> None:
        self._alive: list[Any] = []
        self._sums: dict[tuple[int, str, int], Any] = {}
        self._rounded_inputs: dict[tuple[int, str, InputRange], Any] = {}

    def packed(self, codes: NDArray[np.uint8], width: int, shape: tuple[int, ...]) -> Any:
        """Return a constant of packed codes: u2, u4 or u8.

        Args:
            codes: the codes, packed.
            width: bits of a code, 2, 4 or 8.
            shape: shape of the constant, in codes.
        """
        array = pack(codes, width)
        self._alive.append(array)
        return op.constant(ov.Tensor(array, ov.Shape(list(shape)), TYPES[width]))

    def plain(self, array: NDArray[Any]) -> Any:
        """Return a constant of a numpy array.

        Args:
            array: values of the constant.
        """
        array = np.ascontiguousarray(array)
        self._alive.append(array)
        return op.constant(array)

    def linear(self, x: Any, matrix: AffineMatrix, *, constant: bool = False) -> Any:
        """Return `x @ weight.T` for a quantized matrix, as an output of the graph.

        Args:
            x: output of a node, `[..., columns]`.
            matrix: the weight.
            constant: whether x does not depend on the graph's inputs. The compiler folds such a product, so that it is
                computed once, only if the packed weights are on the left.
        """
        if matrix.input is not None:
            x = self._rounded(x, matrix.input)
        weight = self._weight(matrix) if matrix.input is None else self._signed_weight(matrix)
        product = _transposed(op.matmul(weight, x, False, True)) if constant else op.matmul(x, weight, False, True)
        rest = matrix.rest
        if rest is None:
            return product.output(0)
        by_rows = matrix.scale.shape[1] == 1
        shape = (1, matrix.rows) if by_rows else matrix.scale.shape
        scale, offset = (self.plain(part.reshape(shape)) for part in (matrix.scale, matrix.offset))  # type: ignore[union-attr]
        left = op.add(
            op.convert(offset, "f32"), op.multiply(op.convert(scale, "f32"), op.constant(np.float32(matrix.zero)))
        )
        sums = self._group_sums(x, matrix)
        # a matrix product with one column is slow; this multiplication is fused with the addition
        return op.add(product, op.multiply(sums, left) if by_rows else op.matmul(sums, left, False, True)).output(0)

    def rows(self, ids: Any, table: AffineMatrix) -> Any:
        """Return rows of a quantized table, float32 `[..., columns]`: bytes are gathered, then unpacked.

        Args:
            ids: output of a node, integers `[...]`.
            table: the quantized table.
        """
        columns, axis = table.columns, op.constant(np.int64(0))
        width, packed = planes(table)
        codes = self._apart(op.convert(op.gather(self.plain(packed), ids, axis), "f32"), width)
        shape = np.array([0, 0, table.scale.shape[1], table.group_size], np.int64)
        values = op.reshape(codes, self.plain(shape), True)
        scales, offsets = (
            op.unsqueeze(op.convert(op.gather(self.plain(part), ids, axis), "f32"), op.constant(np.int64(-1)))
            for part in (table.scale, table.first_value)
        )
        weights = op.add(op.multiply(values, scales), offsets)
        return op.reshape(weights, self.plain(np.array([0, 0, columns], np.int64)), True).output(0)

    def _apart(self, packed: Any, width: int) -> Any:
        """Unpack bytes that `planes` packed. Bytes and codes are floats: exact, and much faster than shifting bytes."""
        highest_first, left = [], packed
        for place in range(8 - width, 0, -width):
            part = op.floor(op.multiply(left, op.constant(np.float32(0.5**place))))
            left = op.subtract(left, op.multiply(part, op.constant(np.float32(2**place))))
            highest_first.append(part)
        return op.concat([left, *reversed(highest_first)], -1) if highest_first else left

    def table(self, table: AffineMatrix) -> Any:
        """Return all rows of a quantized table, float32 `[rows, columns]`.

        Args:
            table: the quantized table.
        """
        ids = op.constant(self._held(np.arange(table.rows)[None]))
        return op.squeeze(self.rows(ids, table), op.constant(np.int64(0))).output(0)

    def _weight(self, matrix: AffineMatrix) -> Any:
        rows, columns, groups = matrix.rows, matrix.columns, matrix.scale.shape[1]
        grouped = groups > 1
        shape = (rows, groups, matrix.group_size) if grouped else (rows, columns)
        ranges = (rows, groups, 1) if grouped else (rows, 1)
        width = row_container_bits(matrix.bits, columns)
        weight = op.convert(self.packed(matrix.codes, width, shape), "f16")
        if isinstance(matrix.zero, int):
            zero = op.constant(np.array(matrix.zero, np.uint8))
        else:
            zero = self.packed(matrix.zero, width, ranges)
        weight = op.multiply(op.subtract(weight, op.convert(zero, "f16")), self.plain(matrix.scale.reshape(ranges)))
        if grouped:
            weight = op.reshape(weight, self.plain(np.array([rows, columns], np.int64)), False)
        return op.convert(weight, "f32")

    def _signed_weight(self, matrix: AffineMatrix) -> Any:
        shape, width = (matrix.rows, matrix.columns), row_container_bits(matrix.bits, matrix.columns)
        if width == 8:
            signed = op.constant(self._held((matrix.codes.astype(np.int16) - matrix.zero).astype(np.int8)))
        else:
            zero = np.asarray(matrix.zero, np.int8)
            codes = op.convert(self.packed(matrix.codes, width, shape), "i8")
            signed = op.subtract(codes, op.constant(self._held(zero)))
        scale = op.convert(self.plain(matrix.scale.reshape(-1, 1)), "f32")
        return op.multiply(op.convert(signed, "f32"), scale)

    def _rounded(self, x: Any, planned: InputRange) -> Any:
        """Return inputs rounded to 256 levels; computed once for all matrices that read the same x."""
        key = (x.get_index(), x.get_node().get_friendly_name(), planned)
        if key not in self._rounded_inputs:
            low, high = (op.constant(np.float32(end)) for end in planned.ends)
            self._rounded_inputs[key] = op.fake_quantize(x, low, high, low, high, 256).output(0)
        return self._rounded_inputs[key]

    def _held(self, array: NDArray[Any]) -> NDArray[Any]:
        self._alive.append(array)
        return array

    def _group_sums(self, x: Any, matrix: AffineMatrix) -> Any:
        """Return sums of x over groups of inputs, `[..., groups]`; computed once for all that read the same x."""
        groups, group_size = matrix.scale.shape[1], matrix.group_size
        key = (x.get_index(), x.get_node().get_friendly_name(), group_size)
        if key not in self._sums:
            lead = len(x.get_partial_shape()) - 1
            shape = self.plain(np.array([*[0] * lead, groups, group_size], np.int64))
            self._sums[key] = op.reduce_sum(op.reshape(x, shape, True), op.constant(np.int64(-1)), False)
        return self._sums[key]


def _transposed(x: Any) -> Any:
    """Swap the last two axes."""
    axes = list(range(len(x.output(0).get_partial_shape())))
    return op.transpose(x, op.constant(np.array([*axes[:-2], axes[-1], axes[-2]])))
