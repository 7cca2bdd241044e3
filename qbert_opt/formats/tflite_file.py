"""The TFLite container, version 3: constants and operations of one graph, without running or importing LiteRT.

LiteRT checks little of what it opens, and a damaged file may crash its process. So a file is read here first, and
accepted only if writing its contents again with `write_tflite` gives the same bytes. In addition, its description
contains a hash of everything except long constants, whose values are never indices or sizes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputFileError, UsageError
from .flatbuffer import MalformedError, Record, check_layout, parse, pieces
from .litert_codes import BLOCKS, Codes
from .tflite_schema import OPERATOR_NAMES, OPERATORS, SCHEMA

VERSION = 3
WRITER = "qbert-opt "
NO_HASH = "0" * 64
REMEDY = "Export the model again."
SIGNATURE = "serving_default"
LARGEST_FILE = (1 << 31) - 1  # bytes: offsets are signed where LiteRT checks them
MOST_AXES = 4
_TYPES = {"float32": 0, "float16": 1, "int32": 2, "bool": 6, "int8": 9, "int4": 17, "int2": 19}
_TYPE_NAMES = {number: name for name, number in _TYPES.items()}
_ITEM_BITS = {"float32": 32, "float16": 16, "int32": 32, "bool": 8, "int8": 8, "int4": 4, "int2": 2}
_CODE_BITS = {"int8": 8, "int4": 4, "int2": 2}
_BYTE_CODES = 127  # operators with larger numbers have them in another field
Array = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A constant, or a value that the graph computes.

    Attributes:
        kind: float32, float16, int32, bool, int8, int4 or int2.
        shape: -1 stands for the number of tokens.
        value: numbers, or a matrix in codes; None for a computed value.
        name: empty for a tensor that nothing looks up by name.
    """

    kind: str
    shape: tuple[int, ...]
    value: Array | Codes | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation of the graph.

    Attributes:
        operator: name in `OPERATORS`.
        inputs: indices of tensors; -1 stands for an input that is left out.
        outputs: indices of tensors.
        options: options of the operator; absent ones are zero.
        version: version of the operator.
    """

    operator: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    version: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class TfliteFile:
    """Contents of a file.

    Attributes:
        tensors: constants and values.
        operations: in the order in which they run.
        inputs: input tensors of the signature, by name.
        outputs: output tensors of the signature, by name.
        tokens: number of tokens that the file is laid out for; a program that runs it may resize the inputs.
    """

    tensors: tuple[Tensor, ...]
    operations: tuple[Operation, ...]
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    tokens: int


def write_tflite(path: Path, contents: TfliteFile) -> None:
    """Write a file.

    Args:
        path: path of the file.
        contents: the graph.

    Raises:
        UsageError: the file would be larger than the format allows.
    """
    parts = list(pieces(SCHEMA, "Model", _model(contents, _graph_hash(contents))))
    size = sum(len(part) if isinstance(part, bytes) else part.nbytes for part in parts)
    if size > LARGEST_FILE:
        raise UsageError(
            f"{path.name}: would have {size:,} bytes; TFLite files have at most {LARGEST_FILE:,}. Use fewer bits."
        )
    with path.open("wb") as file:
        for part in parts:
            file.write(part if isinstance(part, bytes) else part.tobytes())


def read_tflite(path: Path) -> TfliteFile:
    """Read a file that `write_tflite` wrote; constants are mapped, not copied.

    Args:
        path: path of the file.

    Raises:
        InputFileError: it is not such a file, or is damaged.
    """
    size = path.stat().st_size
    data: NDArray[np.uint8] = np.memmap(path, np.uint8, "r") if size else np.empty(0, np.uint8)
    if data[4:8].tobytes() != SCHEMA.identifier:
        raise InputFileError(f"{path}: is not a TFLite file. {REMEDY}")
    try:
        record = parse(SCHEMA, "Model", data)
        contents = _contents(record)
        check_layout(SCHEMA, "Model", _model(contents, record["description"].removeprefix(WRITER)), data)
        if record["description"] != WRITER + _graph_hash(contents):
            raise MalformedError("the hash of its graph differs")
    except MalformedError as error:
        raise InputFileError(f"{path}: is damaged, or was not written by export: {error}. {REMEDY}") from None
    except (KeyError, IndexError, TypeError, ValueError):
        raise InputFileError(f"{path}: is damaged, or was not written by export. {REMEDY}") from None
    return contents


def _graph_hash(contents: TfliteFile) -> str:
    """Hash everything before the long constants, with zeros in place of this hash."""
    head = next(pieces(SCHEMA, "Model", _model(contents, NO_HASH)))
    return hashlib.sha256(bytes(head)).hexdigest()


def _model(contents: TfliteFile, graph_hash: str) -> Record:
    """Lay out a graph according to the schema: scales of blocks are separate tensors, after all others."""
    tensors: list[Record] = []
    buffers: list[Record] = [{}]  # the first one is empty, for tensors without constants
    scales: list[Record] = []
    zeros: dict[int, Array] = {}  # zero points, one array for all matrices with as many rows
    for tensor in contents.tensors:
        record = _tensor(tensor.kind, tensor.shape, contents.tokens) | ({"name": tensor.name} if tensor.name else {})
        tensors.append(record)
        if tensor.value is None:
            continue
        record["buffer"] = len(buffers)
        if not isinstance(tensor.value, Codes):
            buffers.append({"data": _bytes(tensor.value)})
            continue
        codes, rows = tensor.value, tensor.value.shape[0]
        buffers.append({"data": codes.data})
        if codes.block is None:
            zero = zeros.setdefault(rows, np.zeros(rows, np.int64))
            record["quantization"] = {"scale": codes.scale, "zero_point": zero}
        else:
            blocks = {"scales": len(contents.tensors) + len(scales), "zero_points": -1, "block_size": codes.block}
            record["quantization"] = {"details": ("BlockwiseQuantization", blocks)}
            scales.append(_tensor("float16", codes.scale.shape, 1) | {"buffer": len(buffers)})
            buffers.append({"data": _bytes(codes.scale)})
    kinds = sorted({(OPERATORS[o.operator].number, o.version) for o in contents.operations})
    graph = {
        "tensors": tensors + scales,
        "inputs": np.array([*contents.inputs.values()], np.int32),
        "outputs": np.array([*contents.outputs.values()], np.int32),
        "operators": [_operation(o, kinds) for o in contents.operations],
        "name": "main",
    }
    ends = {
        what: [{"name": name, "tensor_index": index} for name, index in named.items()]
        for what, named in (("inputs", contents.inputs), ("outputs", contents.outputs))
    }
    codes_of = [
        {"deprecated_builtin_code": min(number, _BYTE_CODES), "version": version, "builtin_code": number}
        for number, version in kinds
    ]
    return {
        "version": VERSION, "operator_codes": codes_of, "subgraphs": [graph], "description": WRITER + graph_hash,
        "buffers": buffers, "signature_defs": [{**ends, "signature_key": SIGNATURE}],
    }  # fmt: skip


def _tensor(kind: str, shape: tuple[int, ...], tokens: int) -> Record:
    sizes = [tokens if size < 0 else size for size in shape]
    record: Record = {"shape": np.array(sizes, np.int32), "type": _TYPES[kind]}
    return record | ({"shape_signature": np.array(shape, np.int32)} if -1 in shape else {})


def _operation(operation: Operation, kinds: list[tuple[int, int]]) -> Record:
    operator = OPERATORS[operation.operator]
    record: Record = {
        "opcode_index": kinds.index((operator.number, operation.version)),
        "inputs": np.array(operation.inputs, np.int32),
        "outputs": np.array(operation.outputs, np.int32),
    }
    return record | ({"builtin_options": (operator.options[1], dict(operation.options))} if operator.options else {})


def _bytes(array: Array) -> NDArray[np.uint8]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _contents(record: Record) -> TfliteFile:
    """Read what `_model` laid out; any difference from its layout is found when the contents are laid out again."""
    [graph], [signature] = record["subgraphs"], record["signature_defs"]
    kinds = [(OPERATOR_NAMES[item.get("builtin_code", 0)], item["version"]) for item in record["operator_codes"]]
    listed, buffers = graph["tensors"], record["buffers"]
    own = next((i for i, item in enumerate(listed) if _is_scale(item)), len(listed))
    tensors = [_read_tensor(item, listed, buffers) for item in listed[:own]]
    operations = []
    for item in graph["operators"]:
        name, version = kinds[item.get("opcode_index", 0)]
        inputs, outputs = (tuple(map(int, item[what])) for what in ("inputs", "outputs"))
        if not all(-1 <= i < own for i in inputs) or not all(0 <= i < own for i in outputs):
            raise MalformedError(f"an operation {name} has tensors that do not exist")
        options = item["builtin_options"][1] if "builtin_options" in item else {}
        operations.append(Operation(name, inputs, outputs, options, version))
    ends: list[dict[str, int]] = []
    for what in ("inputs", "outputs"):
        named = {item["name"]: item.get("tensor_index", 0) for item in signature[what]}
        if not named or not all(0 <= index < own for index in named.values()):
            raise MalformedError(f"its {what} do not exist")
        ends.append(named)
    first = listed[next(iter(ends[0].values()))]
    return TfliteFile(tuple(tensors), tuple(operations), ends[0], ends[1], int(first["shape"][-1]))


def _is_scale(item: Record) -> bool:
    """Whether a tensor contains scales of blocks: these come last, and no other tensor is float16 without a name."""
    return item.get("type") == _TYPES["float16"] and "name" not in item


def _read_tensor(item: Record, listed: list[Record], buffers: list[Record]) -> Tensor:
    kind, name = _TYPE_NAMES[item.get("type", 0)], item.get("name", "")
    shape = tuple(int(size) for size in item["shape_signature" if "shape_signature" in item else "shape"])
    if len(shape) > MOST_AXES or min((*shape, 1)) < -1:
        raise MalformedError(f"a tensor has the shape {shape}")
    if "buffer" not in item:
        return Tensor(kind, shape, None, name)
    data = _data(item, shape, kind, buffers)
    if kind not in _CODE_BITS:
        return Tensor(kind, shape, data.view("f4" if kind == "float32" else kind).reshape(shape), name)
    rows, columns = shape
    quantization = item["quantization"]
    if "details" not in quantization:
        scale = quantization["scale"]
        if scale.shape != (rows,):
            raise MalformedError(f"{name} has {len(scale)} scales for {rows} rows")
    else:
        blocks = quantization["details"][1]
        other = listed[blocks["scales"]]
        if kind != "int4" or blocks["block_size"] not in BLOCKS or columns % blocks["block_size"]:
            raise MalformedError(f"{name} has {kind} in blocks of {blocks['block_size']} for {columns} inputs")
        sizes = (rows, columns // blocks["block_size"])
        if not _is_scale(other) or tuple(other["shape"]) != sizes:
            raise MalformedError(f"{name} does not have one scale for each block")
        scale = _data(other, sizes, "float16", buffers).view(np.float16).reshape(sizes)
    return Tensor(kind, shape, Codes(_CODE_BITS[kind], (rows, columns), data, scale), name)


def _data(item: Record, shape: tuple[int, ...], kind: str, buffers: list[Record]) -> NDArray[np.uint8]:
    data: NDArray[np.uint8] = buffers[item["buffer"]]["data"]
    if min((*shape, 1)) < 0 or len(data) * 8 != math.prod(shape) * _ITEM_BITS[kind]:
        raise MalformedError(f"a constant of shape {shape} has {len(data)} bytes")
    return data
