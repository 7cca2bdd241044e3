"""The ONNX nodes of a program, operation by operation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from ..formats.onnx_graph import Builder
from .operations import (
    IDS,
    Binary,
    Embed,
    Linear,
    Lookup,
    Mask,
    MatMul,
    Operation,
    Positions,
    Rearrange,
    Reduce,
    Relative,
    Requantize,
    Shift,
    SquareRoot,
    Value,
)
from .program import Output, Program

INT32, INT64 = TensorProto.INT32, TensorProto.INT64
UINT8, UINT64 = TensorProto.UINT8, TensorProto.UINT64
LIFT_BITS = 62  # 2**62 is added to a product to make it positive
UNSIGNED = 128  # is added to signed 8-bit numbers to make them unsigned
BINARY = {
    "add": "Add", "subtract": "Sub", "multiply": "Mul", "divide": "Div", "remainder": "Mod", "maximum": "Max",
    "minimum": "Min",
}  # fmt: skip


class Nodes:
    """Adds the nodes of a program to a builder.

    Args:
        program: the program to write.
    """

    def __init__(self, program: Program) -> None:
        self.program, self.builder = program, Builder()
        self._values = program.values
        self._names: dict[str, str] = {}
        for value in program.inputs:
            self._names[value.name] = self._cast(value.name, INT32)
        for step in program.operations:
            self._names[step.output.name] = self._add(step)

    def answer(self, output: Output) -> None:
        """Add the node of an output, whose tensor has the output's name.

        Args:
            output: output of the program.
        """
        made = self._names[output.value]
        if output.column is None:
            self.builder.node("Identity", [made], [output.name])
        else:
            self.builder.node("Gather", [made, self._scalar(output.column, np.int64)], [output.name], axis=-1)

    def _add(self, step: Operation) -> str:
        match step:
            case Positions():
                return self._positions(step)
            case Embed():
                return self._embed(step)
            case Relative(table=table):
                return self._relative(table)
            case Linear():
                return self._linear(step)
            case MatMul(a=a, b=b, transposed=transposed):
                return self._matmul(a, b, transposed)
            case Binary(function=function, a=a, b=b):
                return self._node(BINARY[function], self._name(a), self._name(b))
            case Requantize():
                return self._requantize(step)
            case Shift(a=a, by=by):
                shifts = self._cast(self._name(by), UINT64)
                lifted = self._node("Add", self._cast(self._name(a), INT64), self._scalar(1 << 31, np.int64))
                lift = self._node("BitShift", self._scalar(1 << 31, np.uint64), shifts, direction="RIGHT")
                return self._lowered(lifted, shifts, self._cast(lift, INT64))
            case Lookup(table=table, a=a, start=start):
                index = self._node("Sub", self._name(a), self._scalar(start))
                return self._node("Gather", self._name(table), index, axis=0)
            case Reduce(function=function, a=a):
                kind = "ReduceMax" if function == "max" else "ReduceSum"
                return self._node(kind, self._name(a), self._sizes(-1), keepdims=1)
            case Mask(a=a, mask=mask, fill=fill):
                axes = self._sizes(*range(1, len(step.output.shape) - 1))
                real = self._node("Unsqueeze", self._cast(self._name(mask), TensorProto.BOOL), axes)
                return self._node("Where", real, self._name(a), self._scalar(fill))
            case SquareRoot(a=a, start=start, steps=steps):
                return self._square_root(self._name(a), start, steps)
            case Rearrange(how=how, a=a):
                return self._rearranged(how, self._name(a), step.output)
        raise TypeError(f"{type(step).__name__} is not an operation of a program")

    def _positions(self, step: Positions) -> str:
        ids, axis = self._name(step.ids), self._scalar(1, np.int64)
        if step.padding is None:
            ones = self._node("Add", self._node("Mul", ids, self._scalar(0)), self._scalar(1))
            return self._node("Sub", self._node("CumSum", ones, axis), self._scalar(1))
        padding = self._scalar(step.padding)
        real = self._cast(self._node("Not", self._node("Equal", ids, padding)), INT32)
        return self._node("Add", self._node("Mul", self._node("CumSum", real, axis), real), padding)

    def _embed(self, step: Embed) -> str:
        index = self._name(step.index)
        groups = self.program.constants[step.factors].shape[1]
        columns = self.program.constants[step.codes].shape[1]
        codes = self._cast(self._node("Gather", self._codes(step.codes), index, axis=0), INT32)
        parts = self._node("Reshape", codes, self._sizes(0, 0, groups, columns // groups))
        factors, offsets = (
            self._node("Unsqueeze", self._node("Gather", self._name(name), index, axis=0), self._sizes(-1))
            for name in (step.factors, step.offsets)
        )
        exact = self._node("Add", self._node("Mul", parts, factors), offsets)
        whole = self._node("Reshape", exact, self._sizes(0, 0, columns))
        return self._rounded(self._cast(whole, INT64), step.shift, 0, step.output) if step.shift else whole

    def _relative(self, table: str) -> str:
        tokens = self._node("Gather", self._node("Shape", self._names[IDS]), self._scalar(1, np.int64), axis=0)
        places = self._node("Range", self._scalar(0, np.int64), tokens, self._scalar(1, np.int64))
        columns, rows = (self._node("Unsqueeze", places, self._sizes(axis)) for axis in (0, 1))
        distance = self._node("Sub", columns, rows)
        index = self._node("Add", distance, self._scalar(self.program.max_tokens - 1, np.int64))
        return self._node("Gather", self._name(table), index, axis=1)

    def _linear(self, step: Linear) -> str:
        """Multiply all groups of columns at once, as a stack of matrices in front of the batch."""
        weights = self.program.constants[step.weights]
        grouped = step.factors or step.sums
        groups = 1 if grouped is None else self.program.constants[grouped].shape[1]
        rows, columns = weights.shape
        x, rank = self._name(step.x), len(step.output.shape)
        stack: tuple[int, ...] = (groups, *[1] * (rank - 2), columns // groups, rows) if groups > 1 else (columns, rows)
        if groups > 1:
            parts = self._node("Reshape", x, self._sizes(*[0] * (rank - 1), groups, columns // groups))
            x = self._node("Transpose", parts, perm=[rank - 1, *range(rank - 1), rank])
        matrix = np.moveaxis(weights.reshape(rows, groups, -1), 0, -1).reshape(stack)
        y = self._widened(self._product(x, self._values[step.x], matrix, step.weights), step)
        if step.factors is not None:
            y = self._node("Mul", y, self._per_group(step.factors, step, rank))
        if step.sums is not None:
            added = self._widened(self._node("ReduceSum", x, self._sizes(-1), keepdims=1), step)
            y = self._node("Add", y, self._node("Mul", added, self._per_group(step.sums, step, rank)))
        if step.shift:
            y = self._cast(self._round_shift(y, step.shift, 0), INT32)
        if groups > 1:
            y = self._node("ReduceSum", y, self._sizes(0), keepdims=0)
        return y if step.bias is None else self._node("Add", y, self._name(step.bias))

    def _widened(self, x: str, step: Linear) -> str:
        """Return an int32 tensor as int64 if its product with a factor is shifted."""
        return self._cast(x, INT64) if step.shift else x

    def _per_group(self, name: str, step: Linear, rank: int) -> str:
        """Return factors `[rows, groups]` as `[groups, 1, …, rows]`, or `[rows]` for one group."""
        array = self.program.constants[name].T.astype(np.int64 if step.shift else np.int32)
        shape = (len(array), *[1] * (rank - 1), array.shape[1]) if len(array) > 1 else (array.shape[1],)
        return self.builder.constant(array.reshape(shape), name)

    def _product(self, x: str, value: Value, matrix: NDArray[np.int8], name: str) -> str:
        if value.width <= 8:
            stored = (matrix.astype(np.int16) + UNSIGNED).astype(np.uint8)
            return self._of_bytes(self._unsigned(x), self.builder.constant(stored, name))
        return self._node("MatMul", x, self._cast(self.builder.constant(matrix, name), INT32))

    def _matmul(self, a: str, b: str, transposed: bool) -> str:
        left, right = self._name(a), self._name(b)
        if transposed:
            rank = len(self._values[b].shape)
            right = self._node("Transpose", right, perm=[*range(rank - 2), rank - 1, rank - 2])
        if self._values[a].width <= 8 and self._values[b].width <= 8:
            return self._of_bytes(self._unsigned(left), self._unsigned(right))
        return self._node("MatMul", left, right)

    def _unsigned(self, x: str) -> str:
        return self._cast(self._node("Add", x, self._scalar(UNSIGNED)), UINT8)

    def _of_bytes(self, a: str, b: str) -> str:
        zero = self._scalar(UNSIGNED, np.uint8)
        return self._node("MatMulInteger", a, b, zero, zero)

    def _requantize(self, step: Requantize) -> str:
        a, multiplier, y = self._name(step.a), self._name(step.multiplier), step.output
        constant = self.program.constants.get(step.multiplier)
        if constant is not None and constant.size == 1 and int(constant.reshape(())) == 1 and step.shift == 0:
            zeroed = self._node("Add", self._cast(a, INT64), self._scalar(y.zero, np.int64)) if y.zero else a
            return self._saturated(zeroed, y, np.int64 if y.zero else np.int32)
        product = self._node("Mul", self._cast(a, INT64), self._cast(multiplier, INT64))
        return self._rounded(product, step.shift, y.zero, y)

    def _rounded(self, product: str, shift: int, zero: int, y: Value) -> str:
        """Return `round_shift(product, shift) + zero`, saturated; the product is int64."""
        return self._saturated(self._round_shift(product, shift, zero), y, np.int64)

    def _round_shift(self, product: str, shift: int, zero: int) -> str:
        """Return `round_shift(product, shift) + zero` of an int64 product, int64."""
        lift = (1 << LIFT_BITS) + (1 << shift >> 1)
        lifted = self._cast(self._node("Add", product, self._scalar(lift, np.int64)), UINT64)
        shifted = self._node("BitShift", lifted, self._scalar(shift, np.uint64), direction="RIGHT")
        lower = self._scalar((1 << LIFT_BITS >> shift) - zero, np.int64)
        return self._node("Sub", self._cast(shifted, INT64), lower)

    def _lowered(self, lifted: str, by: str, lift: str) -> str:
        shifted = self._node("BitShift", self._cast(lifted, UINT64), by, direction="RIGHT")
        return self._cast(self._node("Sub", self._cast(shifted, INT64), lift), INT32)

    def _saturated(self, x: str, y: Value, dtype: Any) -> str:
        """Clip by comparing: on int64, Min, Max and Clip are wrong in ONNX Runtime 1.31 (its pull request 25280)."""
        low, high = self._scalar(y.low, dtype), self._scalar(y.high, dtype)
        below = self._node("Where", self._node("Less", x, high), x, high)
        inside = self._node("Where", self._node("Greater", below, low), below, low)
        return self._cast(inside, INT32) if dtype is np.int64 else inside

    def _square_root(self, a: str, start: int | None, steps: int) -> str:
        if start is None:
            x = self._scalar(2)
            for half in range(1, 16):
                above = self._node("GreaterOrEqual", a, self._scalar(1 << (2 * half)))
                x = self._node("Where", above, self._scalar(2 << half), x)
        else:
            x = self._node("Add", self._node("Mul", a, self._scalar(0)), self._scalar(start))
        for _ in range(steps):
            total = self._node("Add", x, self._node("Div", a, x))
            x = self._node("Min", x, self._node("Div", total, self._scalar(2)))
        return x

    def _rearranged(self, how: str, a: str, output: Value) -> str:
        if how == "first":
            return self._node("Gather", a, self._scalar(0, np.int64), axis=1)
        if how == "split":
            parts = self._node("Reshape", a, self._sizes(0, 0, int(output.shape[1]), int(output.shape[3])))
            return self._node("Transpose", parts, perm=[0, 2, 1, 3])
        tokens_first = self._node("Transpose", a, perm=[0, 2, 1, 3])
        return self._node("Reshape", tokens_first, self._sizes(0, 0, -1))

    def _name(self, name: str) -> str:
        """Return the tensor of a value or of a constant, int32."""
        if name in self._names:
            return self._names[name]
        return self.builder.constant(self.program.constants[name].astype(np.int32), name)

    def _codes(self, name: str) -> str:
        return self.builder.constant(self.program.constants[name], name)

    def _scalar(self, number: int, dtype: Any = np.int32) -> str:
        name = f"scalar.{np.dtype(dtype).name}.{number}"
        if name not in self.builder.initializers:  # the builder's own constants have at least one axis
            self.builder.initializers[name] = numpy_helper.from_array(np.array(number, dtype), name)
        return name

    def _sizes(self, *sizes: int) -> str:
        return self.builder.constant(np.array(sizes, np.int64), f"sizes.{'.'.join(map(str, sizes))}")

    def _cast(self, x: str, to: int) -> str:
        return self.builder.node("Cast", [x], to=to)

    def _node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        return self.builder.node(kind, list(inputs), **attributes)
