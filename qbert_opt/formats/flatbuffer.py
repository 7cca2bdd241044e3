"""FlatBuffers: records of a schema to bytes and back, checked to the last byte.

The same records can be laid out in many ways. This writer puts tables in the order in which they are reached, and long
vectors after them. The reader accepts only files with this layout, i.e. files that this writer made, so no offset can
lead anywhere else. Source: the FlatBuffers internals document, flatbuffers.dev.

A schema gives each table its fields as `(slot, name, type)`. Types:

    u8 i8 u16 i16 u32 i32 f32 bool    a number; a zero is left out, because it is the format's default
    [u8] [i32] [i64] [f32]            a vector of numbers: a NumPy array
    text                              a string
    NAME, [NAME]                      a table, a list of tables
    NAME?                             a union, in two slots: a pair of the table's name and the table
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Record = dict[str, Any]
_NUMBERS = {"u8": "B", "i8": "b", "bool": "?", "u16": "H", "i16": "h", "u32": "I", "i32": "i", "f32": "f"}
_VECTORS = {"[u8]": "u1", "[i32]": "<i4", "[i64]": "<i8", "[f32]": "<f4"}
LONG = 64  # bytes: vectors of at least this size come after the tables
ALIGNMENT = 16  # of long vectors, and of the file


class MalformedError(ValueError):
    """The bytes are not records of a schema, or have another layout than this writer's."""


@dataclass(frozen=True, slots=True)
class Schema:
    """Tables of a format.

    Attributes:
        identifier: the four bytes after the first offset of a file.
        tables: fields of each table, by name.
        unions: tables of each union by number, by name of the union.
    """

    identifier: bytes
    tables: Mapping[str, tuple[tuple[int, str, str], ...]]
    unions: Mapping[str, Mapping[int, str]]


def pieces(schema: Schema, name: str, record: Record) -> Iterator[bytes | NDArray[Any]]:
    """Yield the bytes of a file, piece by piece; long vectors are not copied.

    Args:
        schema: schema of the format.
        name: name of the root table.
        record: contents of the root table.
    """
    writer = _Writer(schema)
    head, long = writer.file(name, record)
    yield head
    for gap, array in long:
        yield gap
        yield array


def parse(schema: Schema, name: str, data: Bytes) -> Record:
    """Read the records of a file; long vectors are views of it.

    Args:
        schema: schema of the format.
        name: name of the root table.
        data: content of the file.

    Returns:
        The records; `check_layout` checks whether the file contains anything else.

    Raises:
        MalformedError: an offset leads out of the file, or to a table that the schema does not have.
    """
    return _Reader(schema, data).file(name)


def check_layout(schema: Schema, name: str, record: Record, data: Bytes) -> None:
    """Check that a file consists exactly of the bytes that `pieces` yields for some records.

    Args:
        schema: schema of the format.
        name: name of the root table.
        record: contents of the root table.
        data: content of the file; vectors that are views of it are not read.

    Raises:
        MalformedError: a byte differs, or the sizes do.
    """
    at = 0
    for piece in pieces(schema, name, record):
        array = np.frombuffer(piece, np.uint8) if isinstance(piece, bytes) else piece.reshape(-1).view(np.uint8)
        found = data[at : at + array.size]
        same = found.ctypes.data == array.ctypes.data and found.size == array.size
        if not same and not np.array_equal(found, array):
            raise MalformedError(f"its layout differs after byte {at}")
        at += array.size
    if at != len(data):
        raise MalformedError(f"it has {len(data)} bytes; {at} were expected")


class _Writer:
    """Lays out tables front to back; an offset is filled in when the position of its target is known."""

    def __init__(self, schema: Schema) -> None:
        self.schema, self.data = schema, bytearray()
        self.waiting: deque[tuple[int, str, Any]] = deque()
        self.long: dict[tuple[int, int], tuple[NDArray[Any], list[int]]] = {}

    def file(self, name: str, record: Record) -> tuple[bytes, list[tuple[bytes, NDArray[Any]]]]:
        self.data += bytes(4) + self.schema.identifier
        self.waiting.append((0, name, record))
        while self.waiting:
            place, kind, value = self.waiting.popleft()
            self.value(place, kind, value)
        end, parts = len(self.data), []
        for array, places in self.long.values():
            start = -(-(end + 4) // ALIGNMENT) * ALIGNMENT
            for place in places:
                struct.pack_into("<I", self.data, place, start - 4 - place)
            parts.append((bytes(start - 4 - end) + struct.pack("<I", len(array)), array))
            end = start + array.nbytes
        parts.append((bytes(-end % ALIGNMENT), np.empty(0, np.uint8)))
        return bytes(self.data), parts

    def value(self, place: int, kind: str, value: Any) -> None:
        """Write the target of an offset, and fill in the offset."""
        if kind in _VECTORS:
            array = np.ascontiguousarray(value, _VECTORS[kind])
            if array.nbytes >= LONG:
                self.long.setdefault((array.ctypes.data, array.nbytes), (array, []))[1].append(place)
                return
            self.pad(max(array.itemsize, 4), 4)
            self.point(place)
            self.data += struct.pack("<I", len(array)) + array.tobytes()
        elif kind == "text":
            self.pad(4)
            self.point(place)
            encoded = value.encode()
            self.data += struct.pack("<I", len(encoded)) + encoded + b"\0"
        elif kind.startswith("["):
            self.pad(4)
            self.point(place)
            self.data += struct.pack("<I", len(value))
            first = len(self.data)
            self.data += bytes(4 * len(value))
            self.waiting.extend((first + 4 * i, kind[1:-1], item) for i, item in enumerate(value))
        else:
            self.table(place, kind, value)

    def table(self, place: int, name: str, record: Record) -> None:
        fields = list(self.fields(name, record))
        at, layout, slots = 4, [], [0] * (1 + max((slot for slot, _, _ in fields), default=-1))
        for slot, form, value in sorted(fields, key=lambda field: (-struct.calcsize(field[1]), field[0])):
            slots[slot] = at
            layout.append((at, form, value))
            at += struct.calcsize(form)
        self.pad(2)
        vtable = len(self.data)
        self.data += struct.pack(f"<{2 + len(slots)}H", 4 + 2 * len(slots), at, *slots)
        self.pad(4)
        self.point(place)
        start = len(self.data)
        self.data += struct.pack("<i", start - vtable) + bytes(at - 4)
        for offset, form, value in layout:
            if isinstance(value, tuple):
                self.waiting.append((start + offset, *value))
            else:
                struct.pack_into("<" + form, self.data, start + offset, value)

    def fields(self, name: str, record: Record) -> Iterator[tuple[int, str, Any]]:
        """Yield the slots that are not left out, each with its number, or the type and value of its offset's target."""
        types = {field: (slot, kind) for slot, field, kind in self.schema.tables[name]}
        for field, value in record.items():
            slot, kind = types[field]
            if kind in _NUMBERS:
                if value:
                    yield slot, _NUMBERS[kind], value
            elif kind.endswith("?"):
                number = next(n for n, table in self.schema.unions[kind[:-1]].items() if table == value[0])
                yield slot, "B", number
                yield slot + 1, "I", value
            else:
                yield slot, "I", (kind, value)

    def point(self, place: int) -> None:
        struct.pack_into("<I", self.data, place, len(self.data) - place)

    def pad(self, multiple: int, header: int = 0) -> None:
        """Pad such that the position `header` bytes later is aligned."""
        self.data += bytes(-(len(self.data) + header) % multiple)


class _Reader:
    """Follows offsets; all must be within the file, and no file can make it read far more bytes than the file has."""

    def __init__(self, schema: Schema, data: Bytes) -> None:
        self.schema, self.data = schema, data
        self.left = 2 * len(data)  # bytes that may be read, some of them for several tables

    def file(self, name: str) -> Record:
        if self.data[4:8].tobytes() != self.schema.identifier:
            raise MalformedError(f"it does not start as {self.schema.identifier.decode()} files do")
        return self.table(name, self.offset(0))

    def number(self, at: int, form: str) -> Any:
        size = struct.calcsize(form)
        if not 0 <= at <= len(self.data) - size:
            raise MalformedError(f"it ends at byte {len(self.data)}, before byte {at}, which is referred to")
        return struct.unpack("<" + form, self.data[at : at + size].tobytes())[0]

    def offset(self, at: int) -> int:
        return at + int(self.number(at, "I"))

    def span(self, at: int, itemsize: int) -> tuple[int, int]:
        """Return first byte and number of items of a vector, after checking that it is inside the file."""
        count = int(self.number(at, "I"))
        self.left -= 4 + count * itemsize
        if self.left < 0 or at + 4 + count * itemsize > len(self.data):
            raise MalformedError(f"it has {count} items at byte {at}, more than the file holds")
        return at + 4, count

    def table(self, name: str, at: int) -> Record:
        self.left -= 4
        if self.left < 0:
            raise MalformedError("its tables overlap")
        vtable = at - self.number(at, "i")
        slots = (self.number(vtable, "H") - 4) // 2
        record: Record = {}
        for slot, field, kind in self.schema.tables[name]:
            place = at + self.number(vtable + 4 + 2 * slot, "H") if slot < slots else at
            if place == at:
                continue
            if kind in _NUMBERS:
                record[field] = self.number(place, _NUMBERS[kind])
            elif kind.endswith("?"):
                record[field] = self.union(kind[:-1], place, vtable, slots, slot, at)
            else:
                record[field] = self.value(kind, self.offset(place))
        return record

    def union(self, union: str, place: int, vtable: int, slots: int, slot: int, at: int) -> tuple[str, Record]:
        table = self.schema.unions[union].get(self.number(place, "B"))
        if table is None or slot + 1 >= slots:
            raise MalformedError(f"a {union} is of a type that export does not write")
        return table, self.table(table, self.offset(at + self.number(vtable + 6 + 2 * slot, "H")))

    def value(self, kind: str, at: int) -> Any:
        if kind in _VECTORS:
            dtype = np.dtype(_VECTORS[kind])
            first, count = self.span(at, dtype.itemsize)
            return self.data[first : first + count * dtype.itemsize].view(dtype)
        if kind == "text":
            first, count = self.span(at, 1)
            try:
                return self.data[first : first + count].tobytes().decode()
            except UnicodeDecodeError:
                raise MalformedError("a name is not UTF-8") from None
        if kind.startswith("["):
            first, count = self.span(at, 4)
            return [self.table(kind[1:-1], self.offset(first + 4 * i)) for i in range(count)]
        return self.table(kind, at)
