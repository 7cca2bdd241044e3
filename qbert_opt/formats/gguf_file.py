"""The GGUF container, version 3: metadata and tensors, each aligned to 32 bytes.

Source: docs/gguf.md of ggml. The `gguf` package of PyPI cannot read type 42 (Q2_0), so reading and writing are
implemented here; the tests compare them with the package for the types that it supports.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputFileError
from .ggml_blocks import TYPES, BlockType, Bytes

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32
LONGEST_NAME = 63  # GGML_MAX_NAME without the terminating zero
LARGEST_HEADER = 1 << 28  # bytes; vocabularies take a few megabytes
MOST_TENSORS = 1 << 16
REMEDY = "Export the model again."

Value = bool | int | float | str | Sequence[str] | Sequence[int] | Sequence[float]
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A tensor with one or two axes.

    Attributes:
        kind: its type.
        shape: rows and columns, or only columns.
        data: uint8 `[rows, bytes of a row]`.
    """

    kind: BlockType
    shape: tuple[int, ...]
    data: Bytes


@dataclass(frozen=True, slots=True, eq=False)
class GgufFile:
    """Contents of a file.

    Attributes:
        metadata: values by key.
        tensors: tensors by name.
    """

    metadata: Mapping[str, Value]
    tensors: Mapping[str, Tensor]


def write_gguf(path: Path, contents: GgufFile) -> None:
    """Write a file.

    Args:
        path: path of the file.
        contents: metadata and tensors; integers are written as uint32, or int32 in arrays, other numbers as float32.

    Raises:
        ValueError: a name is too long for the format.
    """
    header = [MAGIC, struct.pack("<IQQ", VERSION, len(contents.tensors), len(contents.metadata))]
    header += [_string(key) + _value(value) for key, value in contents.metadata.items()]
    offset = 0
    for name, tensor in contents.tensors.items():
        if len(name.encode()) > LONGEST_NAME:
            raise ValueError(f"tensor name {name} has more than {LONGEST_NAME} bytes")
        sizes = tensor.shape[::-1]
        header.append(_string(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, tensor.kind.number, offset))
        offset += -(-tensor.data.nbytes // ALIGNMENT) * ALIGNMENT
    with path.open("wb") as file:
        file.write(b"".join(header))
        for tensor in contents.tensors.values():
            file.write(bytes(-file.tell() % ALIGNMENT))
            file.write(np.ascontiguousarray(tensor.data).tobytes())
        file.write(bytes(-file.tell() % ALIGNMENT))


def read_gguf(path: Path) -> GgufFile:
    """Read a file; sizes are checked before memory is allocated.

    Args:
        path: path of the file.

    Raises:
        InputFileError: it is not a GGUF file of version 3, it is damaged, or a tensor has a type that `write_gguf` does
            not write.
    """
    data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
    reader = _Reader(path, data)
    if bytes(data[:4]) != MAGIC:
        raise InputFileError(f"{path}: is not a GGUF file. {REMEDY}")
    reader.at = 4
    version, count, keys = reader.numbers("<IQQ")
    if version != VERSION:
        raise InputFileError(f"{path}: has GGUF version {version}; legal is {VERSION}. {REMEDY}")
    if max(count, keys) > MOST_TENSORS:
        raise reader.damaged(f"has {count} tensors and {keys} keys")
    metadata = {}
    for _ in range(keys):
        key = reader.text()
        metadata[key] = reader.value(reader.numbers("<I")[0])
    listed = [reader.tensor() for _ in range(count)]
    start = -(-reader.at // ALIGNMENT) * ALIGNMENT
    tensors: dict[str, Tensor] = {}
    for name, kind, shape, offset in listed:
        rows = shape[0] if len(shape) > 1 else 1
        row_bytes = kind.row_bytes(shape[-1])
        first, last = start + offset, start + offset + rows * row_bytes
        if last > len(data) or name in tensors:
            raise reader.damaged(f"{name} {'is listed twice' if name in tensors else 'ends after the end of the file'}")
        tensors[name] = Tensor(kind, shape, data[first:last].reshape(rows, row_bytes))
    return GgufFile(metadata, tensors)


class _Reader:
    """Reads the header of a file, front to back."""

    def __init__(self, path: Path, data: Bytes) -> None:
        self.path, self.data, self.at = path, data, 0

    def damaged(self, why: str) -> InputFileError:
        return InputFileError(f"{self.path}: is damaged: {why}. {REMEDY}")

    def take(self, size: int) -> bytes:
        if size > min(len(self.data) - self.at, LARGEST_HEADER):
            raise self.damaged(f"it ends at byte {len(self.data)}; {size} more were expected")
        part = bytes(self.data[self.at : self.at + size])
        self.at += size
        return part

    def numbers(self, form: str) -> tuple[Any, ...]:
        return struct.unpack(form, self.take(struct.calcsize(form)))

    def text(self) -> str:
        try:
            return self.take(self.numbers("<Q")[0]).decode()
        except UnicodeDecodeError:
            raise self.damaged("a name is not UTF-8") from None

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            item, count = self.numbers("<IQ")
            if item == _STRING:
                if count > len(self.data):
                    raise self.damaged(f"a list has {count} texts")
                return [self.text() for _ in range(count)]
            form = self.scalar(item)
            part = self.take(count * struct.calcsize(form))
            return list(struct.unpack(f"<{count}{form}", part))
        return self.numbers("<" + self.scalar(kind))[0]

    def scalar(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise self.damaged(f"a value has type {kind}")
        return _SCALARS[kind]

    def tensor(self) -> tuple[str, BlockType, tuple[int, ...], int]:
        name = self.text()
        (axes,) = self.numbers("<I")
        if axes not in (1, 2):
            raise self.damaged(f"{name} has {axes} axes")
        *sizes, number, offset = self.numbers(f"<{axes}QIQ")
        kind = TYPES.get(number)
        if kind is None:
            known = ", ".join(f"{kind.name} ({number})" for number, kind in TYPES.items())
            raise InputFileError(f"{self.path}: {name} has GGML type {number}; legal: {known}. {REMEDY}")
        if min(sizes) < 1 or sizes[0] % kind.inputs or offset % ALIGNMENT:
            raise self.damaged(f"{name} has shape {sizes} and offset {offset}")
        return name, kind, tuple(sizes[::-1]), offset


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Value) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    texts = [item for item in value if isinstance(item, str)]
    if texts:
        return struct.pack("<IIQ", _ARRAY, _STRING, len(texts)) + b"".join(map(_string, texts))
    kind, form = (_FLOAT32, "f") if any(isinstance(item, float) for item in value) else (_INT32, "i")
    return struct.pack(f"<IIQ{len(value)}{form}", _ARRAY, kind, len(value), *value)
