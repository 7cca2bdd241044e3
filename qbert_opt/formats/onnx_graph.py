"""ONNX graphs of quantized matrices for ONNX Runtime's CPU kernels. Needs only numpy and onnx.

- Products run in `MatMulNBits` with `accuracy_level` 4 (integer kernels), in block sizes that these kernels support;
  inputs are rounded to 8 bits per block.
- If ranges span whole rows, and either `coarse` is set or rows are not a whole number of blocks, they run as
  `DynamicQuantizeLinear → MatMulInteger`, which ONNX Runtime fuses: about twice as fast, but with one range for all
  inputs. Packed codes are expanded to bytes when a session starts.
- With a planned range for the inputs, they run as `QuantizeLinear → MatMulIntegerToFloat`, which also adds the bias.
- Embedding rows are gathered as bytes and then unpacked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from ..checkpoint.bits import pack
from ..errors import UsageError
from .affine import AffineMatrix, InputRange, container_bits, row_container_bits
from .onnx_parts import Parts

BLOCKS: Mapping[int, tuple[int, ...]] = {  # block sizes of the integer kernels
    2: (128, 64, 32), 4: (256, 128, 64, 32, 16), 8: (256, 128, 64, 32, 16),
}  # fmt: skip

SMALLEST_BLOCK = 16


class Builder(Parts):
    """Collects the parts of products and tables.

    Args:
        coarse: products with one range per row round their inputs in one range for all of them.
        integers: products in blocks run in integers.
        blocks: block sizes of the kernels by width, largest first. If they are not ONNX Runtime's, the graph is for a
            compiler: everything except its blocks and 16-bit inputs is then in standard operators.

    Attributes:
        compiled: whether the graph is for a compiler.
    """

    def __init__(
        self, *, coarse: bool = False, integers: bool = True, blocks: Mapping[int, tuple[int, ...]] = BLOCKS
    ) -> None:
        super().__init__()
        self._coarse, self._integers, self._block_sizes = coarse, integers, blocks
        self.compiled = blocks is not BLOCKS

    def linear(self, x: str, module: str, matrix: AffineMatrix, output: str, bias: str | None = None) -> None:
        """Add `output = x @ weight.T + bias` for a quantized matrix.

        Args:
            x: name of the input.
            module: name of the matrix, which its initializers get.
            matrix: the weight.
            output: name of the result.
            bias: name of the bias; allowed only if the input has a planned range.
        """
        if self.compiled:
            self._for_compilers(x, module, matrix, output, bias)
            return
        whole_rows = matrix.scale.shape[1] == 1
        by_rows = matrix.input is not None or (whole_rows and (self._coarse or matrix.columns % SMALLEST_BLOCK != 0))
        if by_rows and matrix.input is None and matrix.bits == 8 and matrix.offset is None:
            # stored zero points may not fit into signed bytes, but these do
            offset = -matrix.scale.astype(np.float32) * np.float32(matrix.zero)
            matrix = replace(matrix, zero=128, offset=offset)
        rest = None if matrix.offset is None else self._rest(x, module, matrix, matrix.offset)
        product = None if rest else output
        if matrix.input is not None:
            result = self._static(x, module, matrix, matrix.input, product, bias)
        elif by_rows:
            result = self._integer(x, module, matrix, product)
        else:
            result = self._blocks(x, module, matrix, product)
        if rest:
            self.node("Add", [result, rest], [output])

    def rows(self, ids: str, module: str, table: AffineMatrix, output: str) -> None:
        """Add the lookup of rows of a quantized table.

        Args:
            ids: name of the ids.
            module: name of the table, which its initializers get.
            table: the quantized table.
            output: name of the result.
        """
        width, columns = row_container_bits(table.bits, table.columns), table.columns
        per_byte, groups = 8 // width, table.scale.shape[1]
        packed = self.constant(pack(table.codes, width).reshape(len(table.codes), -1), f"{module}.codes")
        codes = self.node("Gather", [packed, ids], axis=0)
        if per_byte == 1:
            values = self.node("Cast", [codes], to=TensorProto.FLOAT)
        else:
            index = self.node("Cast", [codes], to=TensorProto.INT32)
            table_of_codes = self.constant(_lookup(width, 0, np.float32), f"values{width}")
            values = self.node("Gather", [table_of_codes, index], axis=0)
        ranges = []
        for part, array in (("scale", table.scale), ("offset", table.first_value)):
            gathered = self.node("Gather", [self.constant(array, f"{module}.{part}"), ids], axis=0)
            wide = self.node("Cast", [gathered], to=TensorProto.FLOAT)
            ranges.append(self.node("Reshape", [wide, self.constant(np.array([-1, groups, 1]))]))
        shaped = self.node("Reshape", [values, self.constant(np.array([-1, groups, table.group_size]))])
        weights = self.node("Add", [self.node("Mul", [shaped, ranges[0]]), ranges[1]])
        shape = self.node("Concat", [self.node("Shape", [ids]), self.constant(np.array([columns]))], axis=0)
        self.node("Reshape", [weights, shape], [output])

    def _blocks(self, x: str, module: str, matrix: AffineMatrix, output: str | None) -> str:
        width = container_bits(matrix.bits)
        sizes = self._block_sizes[width]
        block = next((b for b in sizes if matrix.group_size % b == 0), None)
        if block is None and not self.compiled and matrix.group_size % SMALLEST_BLOCK == 0:
            width, block = 4, 16
        if block is None:
            smallest = min(SMALLEST_BLOCK, *sizes) if not self.compiled else min(sizes)
            raise UsageError(
                f"{module}: {matrix.group_size} inputs per range are not a multiple of {smallest}, the smallest block "
                f"size of the kernels. Plan with columns:{smallest} or multiples of it."
            )
        repeats = matrix.group_size // block
        codes = matrix.codes
        shift = 2 ** (width - 1) - matrix.zero if isinstance(matrix.zero, int) else 2**width
        own_zero = int(codes.max()) + shift < 2**width  # shift to the kernels' default zero point, which is not stored
        if own_zero:
            codes = codes + np.uint8(shift)
        blocks = matrix.columns // block
        if matrix.scale.shape[1] == 1:  # one range per row: its scale is copied to all blocks when the session starts
            column = self.node("Unsqueeze", [self._row_scale(module, matrix), self.constant(np.array([1]))])
            spread = self.node("Expand", [column, self.constant(np.array([matrix.rows, blocks]))])
            scale = self.node("Reshape", [spread, self.constant(np.array([-1]))])
        else:
            stored = np.repeat(matrix.scale, repeats, axis=1).reshape(-1)
            scale = self.widened(stored, f"{module}.scale")
        packed = self.constant(pack(codes, width).reshape(matrix.rows, blocks, block * width // 8), f"{module}.codes")
        inputs = [x, packed, scale]
        if not own_zero:
            per_group = np.broadcast_to(np.uint8(matrix.zero), matrix.scale.shape)
            zeros = np.broadcast_to(np.repeat(per_group, repeats, axis=1), (matrix.rows, blocks))
            per_byte = 8 // width
            filled = np.zeros((matrix.rows, -(-blocks // per_byte) * per_byte), np.uint8)
            filled[:, :blocks] = zeros
            inputs.append(self.constant(pack(filled, width), f"{module}.zero"))
        return self.node(
            "MatMulNBits", inputs, 1 if output is None else [output], domain="com.microsoft",
            K=matrix.columns, N=matrix.rows, bits=width, block_size=block,
            accuracy_level=4 if self._integers else 0,
        )  # fmt: skip

    def _for_compilers(self, x: str, module: str, matrix: AffineMatrix, output: str, bias: str | None) -> None:
        """Add a product in blocks or, for widths without blocks, in QDQ form: signed codes with one scale per row.

        Planned inputs are rounded by `QuantizeLinear` and `DequantizeLinear` before the product.

        Raises:
            UsageError: the matrix has offsets, or several ranges per row at a width without blocks.
        """
        in_blocks = container_bits(matrix.bits) in self._block_sizes
        whole_rows = matrix.scale.shape[1] == 1
        if matrix.offset is not None or not isinstance(matrix.zero, int) or not (in_blocks or whole_rows):
            raise UsageError(f"{module}: needs symmetric ranges, at 8 bits one per row. Plan with `forms` symmetric.")
        if matrix.input is not None:
            x = self._rounded(x, matrix.input)
        product = None if bias else output
        if in_blocks:
            result = self._blocks(x, module, matrix, product)
        else:
            signed = (matrix.codes.T.astype(np.int16) - matrix.zero).astype(np.int8)
            scale = self._row_scale(module, matrix)
            codes, zeros = self.constant(signed, f"{module}.codes"), self.constant(np.zeros(matrix.rows, np.int8))
            weight = self.node("DequantizeLinear", [codes, scale, zeros], axis=1)
            result = self.node("MatMul", [x, weight], 1 if product is None else [product])
        if bias:
            self.node("Add", [result, bias], [output])

    def _integer(self, x: str, module: str, matrix: AffineMatrix, output: str | None) -> str:
        key = ("quantized", x)
        if key not in self._shared:
            self._shared[key] = self.node("DynamicQuantizeLinear", [x], 3)
        codes_of_x = self._shared[key]
        scale_of_x, zero_of_x = codes_of_x[:-1] + "1", codes_of_x[:-1] + "2"
        product = self.node("MatMulInteger", [codes_of_x, self._signed(module, matrix), zero_of_x])
        scales = self.node("Mul", [scale_of_x, self._row_scale(module, matrix)])
        wide = self.node("Cast", [product], to=TensorProto.FLOAT)
        return self.node("Mul", [wide, scales], 1 if output is None else [output])

    def _static(
        self, x: str, module: str, matrix: AffineMatrix, planned: InputRange, output: str | None, bias: str | None
    ) -> str:
        """Add a product of inputs with a planned range: one node, which also scales the integers and adds the bias."""
        scale_of_x, zero_of_x = self._planned_range(planned)
        codes, zeros = self._signed_codes(module, matrix)
        inputs = [self._planned_codes(x, planned), codes, scale_of_x, self._row_scale(module, matrix), zero_of_x, zeros]
        if bias is not None:
            inputs.append(bias)
        elif not zeros:
            inputs.pop()
        return self.node("MatMulIntegerToFloat", inputs, 1 if output is None else [output], domain="com.microsoft")

    def _planned_range(self, planned: InputRange) -> tuple[str, str]:
        name, kind = f"input{planned.scale!r}_{planned.zero}", np.uint8 if planned.bits == 8 else np.uint16
        scale = self.constant(np.float32(planned.scale), f"{name}.scale")
        return scale, self.constant(kind(planned.zero), f"{name}.zero")

    def _planned_codes(self, x: str, planned: InputRange) -> str:
        key = ("planned", x, repr(planned))
        if key not in self._shared:
            self._shared[key] = self.node(
                "QuantizeLinear", [x, *self._planned_range(planned)], domain=_rounding_domain(planned)
            )
        return self._shared[key]

    def _rounded(self, x: str, planned: InputRange) -> str:
        """Return the inputs rounded to the levels of their range."""
        key = ("rounded", x, repr(planned))
        if key not in self._shared:
            codes = self._planned_codes(x, planned)
            self._shared[key] = self.node(
                "DequantizeLinear", [codes, *self._planned_range(planned)], domain=_rounding_domain(planned)
            )
        return self._shared[key]

    def _row_scale(self, module: str, matrix: AffineMatrix) -> str:
        return self.widened(matrix.scale.reshape(-1), f"{module}.scale")

    def _signed_codes(self, module: str, matrix: AffineMatrix) -> tuple[str, str]:
        """Return signed codes `[columns, rows]`, and the zero points that kernels subtract if rows differ, else ""."""
        if isinstance(matrix.zero, int):
            return self._signed(module, matrix), ""
        zeros = self.constant(matrix.zero.reshape(-1).astype(np.int8), f"{module}.zero")
        return self._signed(module, replace(matrix, zero=0)), zeros

    def _signed(self, module: str, matrix: AffineMatrix) -> str:
        """Return codes minus zero points, int8 `[columns, rows]`: stored packed, expanded when the session starts."""
        key = ("signed", module)
        if key in self._shared:
            return self._shared[key]
        width, zero = container_bits(matrix.bits), matrix.zero
        per_byte = 8 // width
        if width == 8 or not isinstance(zero, int) or matrix.rows % per_byte:
            signed = matrix.codes.T.astype(np.int16) - (zero if isinstance(zero, int) else zero.T.astype(np.int16))
            weights = self.constant(signed.astype(np.int8), f"{module}.codes")
        else:
            packed = pack(np.ascontiguousarray(matrix.codes.T), width).reshape(matrix.columns, -1)
            index = self.node("Cast", [self.constant(packed, f"{module}.codes")], to=TensorProto.INT32)
            table = self.constant(_lookup(width, zero, np.int8), f"codes{width}_{zero}")
            shape = self.constant(np.array([matrix.columns, matrix.rows]))
            weights = self.node("Reshape", [self.node("Gather", [table, index], axis=0), shape])
        self._shared[key] = weights
        return weights

    def _rest(self, x: str, module: str, matrix: AffineMatrix, values: NDArray[np.floating]) -> str:
        """Return the group sums of the inputs, rounded as planned, times `AffineMatrix.rest`."""
        if matrix.input is not None:
            x = self._rounded(x, matrix.input)
        groups = matrix.scale.shape[1]
        key = ("sums", x, str(matrix.group_size))
        if key not in self._shared:
            grouped = x
            if groups > 1:
                shape = np.array([0, 0, groups, matrix.group_size])
                grouped = self.node("Reshape", [x, self.constant(shape)])
            axes = self.constant(np.array([-1]))
            self._shared[key] = self.node("ReduceSum", [grouped, axes], keepdims=int(groups == 1))
        left = ("rest", module)
        if left not in self._shared:
            if groups == 1:
                scale = self._row_scale(module, matrix)
            else:
                scale = self.node("Cast", [self.constant(matrix.scale, f"{module}.scales")], to=TensorProto.FLOAT)
            scaled = self.node("Mul", [scale, self.constant(np.float32(matrix.zero))])
            stored: NDArray[Any] = values.reshape(-1) if groups == 1 else values
            half = stored.dtype == np.float16
            offset = self.widened(stored, f"{module}.offset") if half else self.constant(stored)
            rest = self.node("Add", [offset, scaled])
            self._shared[left] = rest if groups == 1 else self.node("Transpose", [rest], perm=[1, 0])
        return self.node("Mul" if groups == 1 else "MatMul", [self._shared[key], self._shared[left]])


def _rounding_domain(planned: InputRange) -> str:
    """Return the domain of rounding: standard operators have no 16-bit codes before operator set 21."""
    return "" if planned.bits == 8 else "com.microsoft"


def _lookup(width: int, zero: int, dtype: Any) -> NDArray[Any]:
    """Return the codes in every byte minus a zero point, `[256, codes per byte]`, lowest bits first."""
    shifts = np.arange(8 // width) * width
    codes: NDArray[Any] = (np.arange(256)[:, None] >> shifts & (2**width - 1)) - zero
    return codes.astype(dtype)
