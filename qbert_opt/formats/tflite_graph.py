"""Operations of a transformer encoder, added one by one to a TFLite graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .litert_codes import Codes
from .tflite_file import Operation, Tensor, TfliteFile

TOKENS = -1
NOTHING = -1  # an input that is left out
FLOAT_BIAS = 12  # versions of FULLY_CONNECTED and EMBEDDING_LOOKUP whose kernels support int4, int2 and blocks
CODED_ROWS = 4
_INT32, _BOOL, _FLOAT = 2, 6, 0  # TensorType
Floats = NDArray[np.floating]
Weight = Floats | Codes


class Graph:
    """A graph that is being built; values are the indices of their tensors."""

    def __init__(self, tokens: int) -> None:
        """Start without tensors.

        Args:
            tokens: number of tokens that the file is laid out for.
        """
        self._tokens = tokens
        self._tensors: list[Tensor] = []
        self._operations: list[Operation] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], int] = {}

    def finished(self, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> TfliteFile:
        """Return the file. Without codes, every tensor gets a name, because Google's quantizer needs one.

        Args:
            inputs: values by name.
            outputs: values by name.
        """
        tensors = self._tensors
        if not any(isinstance(tensor.value, Codes) for tensor in tensors):
            tensors = [replace(tensor, name=tensor.name or f"{index}") for index, tensor in enumerate(tensors)]
        return TfliteFile(tuple(tensors), tuple(self._operations), dict(inputs), dict(outputs), self._tokens)

    def ids(self, name: str) -> int:
        """Add an input, int32 `[1, tokens]`.

        Args:
            name: name of the input.
        """
        return self._value("int32", (1, TOKENS), name)

    def constant(self, array: NDArray[Any], name: str = "") -> int:
        """Add a constant of the array's type; equal constants without a name are stored once.

        Args:
            array: values of the constant.
            name: name of its tensor; may be empty.
        """
        key = (str(array.dtype), array.shape, array.tobytes() if array.size <= 64 else b"")
        if key[2] and not name and key in self._constants:
            return self._constants[key]
        self._tensors.append(Tensor(str(array.dtype), array.shape, np.ascontiguousarray(array), name))
        index = len(self._tensors) - 1
        if key[2] and not name:
            self._constants[key] = index
        return index

    def rows(self, ids: int, table: Weight, name: str, count: int = TOKENS) -> int:
        """Look up rows of a table.

        Args:
            ids: int32 `[count]`.
            table: `[rows, columns]`, float32 or codes.
            name: name of the module; quantizers find float tables by the name of the result.
            count: number of ids.
        """
        coded = isinstance(table, Codes)
        inputs, shape = (ids, self._weight(table, f"{name}.weight")), (count, table.shape[1])
        return self._add(
            "EMBEDDING_LOOKUP", inputs, shape, name="" if coded else name, version=CODED_ROWS if coded else 1
        )

    def linear(self, x: int, weight: Weight, bias: Floats | None, name: str, count: int = TOKENS) -> int:
        """Multiply by a weight and add a bias.

        Args:
            x: `[count, columns]`.
            weight: `[rows, columns]`; a float16 weight is widened in the graph.
            bias: float32 `[rows]`, or None.
            name: name of the layer; quantizers find float weights by the name of the product.
            count: rows of `x`.
        """
        held = self._weight(weight, f"{name}.weight")
        if not isinstance(weight, Codes) and weight.dtype == np.float16:
            held = self._add("DEQUANTIZE", (held,), weight.shape)
        add = NOTHING if bias is None else self.constant(np.asarray(bias, np.float32), f"{name}.bias")
        coded = isinstance(weight, Codes)
        inputs, shape = (x, held, add), (count, weight.shape[0])
        return self._add(
            "FULLY_CONNECTED", inputs, shape, name="" if coded else name, version=FLOAT_BIAS if coded else 1
        )

    def normalized(self, x: int, scale: Floats, shift: Floats, epsilon: float, name: str) -> int:
        """Apply LayerNorm.

        Args:
            x: `[tokens, columns]`.
            scale: float32 `[columns]`.
            shift: float32 `[columns]`.
            epsilon: number that is added to the variance.
            name: name of the layer.
        """
        columns = len(scale)
        axis = self.constant(np.array([1], np.int32))
        mean = self._add("MEAN", (x, axis), (TOKENS, 1), {"keep_dims": True})
        spread = self._add("SQUARED_DIFFERENCE", (x, mean), (TOKENS, columns))
        variance = self._add("MEAN", (spread, axis), (TOKENS, 1), {"keep_dims": True})
        root = self.one("RSQRT", self.both("ADD", variance, self.number(epsilon)))
        centered = self.both("MUL", self.both("SUB", x, mean), root)
        scaled = self.both("MUL", centered, self.constant(np.asarray(scale, np.float32), f"{name}.weight"))
        return self.both("ADD", scaled, self.constant(np.asarray(shift, np.float32), f"{name}.bias"))

    def attention(self, query: int, key: int, value: int, mask: int, heads: int) -> int:
        """Add multi-head attention.

        Args:
            query: `[tokens, columns]`; `key` and `value` likewise.
            key: see `query`.
            value: see `query`.
            mask: float32 `[1, tokens]`, added to the scores.
            heads: number of heads that the columns are split into.
        """
        columns = self._tensors[query].shape[1]
        size = columns // heads
        swap = self.constant(np.array([1, 0, 2], np.int32))

        def cut(x: int) -> int:
            return self._add("TRANSPOSE", (self.reshaped(x, (TOKENS, heads, size)), swap), (heads, TOKENS, size))

        scaled = self.both("MUL", query, self.number(size**-0.5))
        scores = self._add("BATCH_MATMUL", (cut(scaled), cut(key)), (heads, TOKENS, TOKENS), {"adj_y": True})
        shares = self.one("SOFTMAX", self.both("ADD", scores, mask), {"beta": 1.0})
        seen = self._add("BATCH_MATMUL", (shares, cut(value)), (heads, TOKENS, size))
        return self.reshaped(self._add("TRANSPOSE", (seen, swap), (TOKENS, heads, size)), (TOKENS, columns))

    def reshaped(self, x: int, shape: tuple[int, ...], name: str = "") -> int:
        """Reshape a value.

        Args:
            x: a value of any shape.
            shape: the new shape; -1 stands for the number of tokens.
            name: name of the result; may be empty.
        """
        sizes = np.array(shape, np.int32)
        kind = self._tensors[x].kind
        return self._add("RESHAPE", (x, self.constant(sizes)), shape, {"new_shape": sizes}, kind=kind, name=name)

    def first(self, x: int) -> int:
        """Return the first token's row.

        Args:
            x: `[tokens, columns]`.
        """
        columns = self._tensors[x].shape[1]
        start, size = (self.constant(np.array(pair, np.int32)) for pair in ((0, 0), (1, columns)))
        return self._add("SLICE", (x, start, size), (1, columns))

    def halves(self, x: int) -> tuple[int, int]:
        """Split a value into its two columns.

        Args:
            x: `[tokens, 2]`.
        """
        axis = self.constant(np.array(1, np.int32))
        parts = self._value("float32", (TOKENS, 1)), self._value("float32", (TOKENS, 1))
        self._operations.append(Operation("SPLIT", (axis, x), parts, {"num_splits": len(parts)}))
        return parts

    def positions(self, ids: int, padding: int | None) -> int:
        """Number the tokens.

        Args:
            ids: int32 `[tokens]`.
            padding: id of the padding token, whose position is this id; other tokens are numbered from the next one.
                None numbers every token, from 0.
        """
        other = self.constant(np.array([-1 if padding is None else padding], np.int32))
        differs = self._add("NOT_EQUAL", (ids, other), (TOKENS,), kind="bool")
        ones = self._cast(differs, _BOOL, _INT32, "int32")
        axis = self.constant(np.array(0, np.int32))
        sums = self._add("CUMSUM", (ones, axis), (TOKENS,), {"exclusive": padding is None}, kind="int32")
        if padding is None:
            return sums
        counted = self._add("MUL", (sums, ones), (TOKENS,), kind="int32")
        return self._add("ADD", (counted, other), (TOKENS,), kind="int32")

    def hidden(self, mask: int, hides: float) -> int:
        """Return the term to add to attention scores, float32 `[1, tokens]`: 0 where a mask is 1, else `-hides`.

        Args:
            mask: int32 `[1, tokens]`.
            hides: a large number.
        """
        floats = self._cast(mask, _INT32, _FLOAT, "float32")
        return self.both("MUL", self.both("SUB", floats, self.number(1)), self.number(hides))

    def one(self, operator: str, x: int, options: Mapping[str, Any] | None = None) -> int:
        """Apply an operator to each number.

        Args:
            operator: name in `OPERATORS`.
            x: a value of any shape.
            options: options of the operator.
        """
        return self._add(operator, (x,), self._tensors[x].shape, options)

    def both(self, operator: str, a: int, b: int) -> int:
        """Apply an operator to two values.

        Args:
            operator: name in `OPERATORS`.
            a: a value, whose shape the result has.
            b: a value that is broadcast to this shape.
        """
        return self._add(operator, (a, b), self._tensors[a].shape)

    def number(self, value: float) -> int:
        """Add a constant of one number.

        Args:
            value: the number.
        """
        return self.constant(np.array([value], np.float32))

    def _cast(self, x: int, source: int, target: int, kind: str) -> int:
        types = {"in_data_type": source, "out_data_type": target}
        return self._add("CAST", (x,), self._tensors[x].shape, types, kind=kind)

    def _weight(self, weight: Weight, name: str) -> int:
        if not isinstance(weight, Codes):
            return self.constant(weight, name)
        self._tensors.append(Tensor(f"int{weight.bits}", weight.shape, weight, name))
        return len(self._tensors) - 1

    def _value(self, kind: str, shape: tuple[int, ...], name: str = "") -> int:
        self._tensors.append(Tensor(kind, shape, None, name))
        return len(self._tensors) - 1

    def _add(
        self,
        operator: str,
        inputs: tuple[int, ...],
        shape: tuple[int, ...],
        options: Mapping[str, Any] | None = None,
        *,
        kind: str = "float32",
        name: str = "",
        version: int = 1,
    ) -> int:
        output = self._value(kind, shape, name)
        self._operations.append(Operation(operator, inputs, (output,), options or {}, version))
        return output
