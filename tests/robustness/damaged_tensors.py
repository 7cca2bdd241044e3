"""Seeded damage to a safetensors file that knows its layout: headers that lie, and weights that no training leaves."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

from mutation import mutate

Header = dict[str, Any]
Damage = Callable[[Header, bytearray, random.Random], None]

DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I8", "U8", "BOOL", "F8_E4M3", "C64", "F4", "x", None, 32)
POISON = (float("nan"), float("inf"), -float("inf"), 3.4e38, -3.4e38, 1e30, 1e-45, -0.0, 65504.0, 1e5)
SIZES = (0, -1, 1, 2, 7, 2**31, 2**32, 2**62, 2**63, 2**64, 10**40, 1.5, "4", None, True, [1])
NAMES = (
    "x",
    "",
    "\x1b[31m",
    "weight",
    "../x",
    "bert",
    "__metadata__",
    "x" * 3000,
    "bert.encoder.layer.99.output.weight",
)


def poison(header: Header, payload: bytearray, rng: random.Random) -> None:
    """One weight, a row of them, or a whole tensor has a value that float32 holds and no model means."""
    begin, end = header[rng.choice(list(header))]["data_offsets"]
    places = range(begin, end - 3, 4)
    first = rng.randrange(len(places))
    value = struct.pack("<f", rng.choice(POISON))
    for place in places[first : first + rng.choice((1, 1, 32, len(places)))]:
        payload[place : place + 4] = value


def change_dtype(header: Header, payload: bytearray, rng: random.Random) -> None:
    """Another type, with or without the size that goes with it."""
    entry = header[rng.choice(list(header))]
    entry["dtype"] = rng.choice(DTYPES)
    if rng.random() < 0.5 and entry["dtype"] in ("F16", "BF16") and entry["shape"]:
        entry["shape"][-1] *= 2


def change_shape(header: Header, payload: bytearray, rng: random.Random) -> None:
    """Turned round, flattened, or with an absurd number in it."""
    shape = header[rng.choice(list(header))]["shape"]
    kind = rng.randrange(4)
    if kind == 0:
        shape.reverse()
    elif kind == 1 and len(shape) > 1:
        shape[:] = [shape[0] * shape[1], *shape[2:]]
    elif kind == 2:
        shape.append(rng.choice(SIZES))
    elif shape:
        shape[rng.randrange(len(shape))] = rng.choice(SIZES)


def change_offsets(header: Header, payload: bytearray, rng: random.Random) -> None:
    """Another tensor's bytes, none, or an absurd place."""
    entry = header[rng.choice(list(header))]
    kind = rng.randrange(3)
    if kind == 0:
        entry["data_offsets"] = list(header[rng.choice(list(header))]["data_offsets"])
    elif kind == 1:
        entry["data_offsets"][1] = entry["data_offsets"][0]
    else:
        entry["data_offsets"][rng.randrange(2)] = rng.choice(SIZES)


def empty(header: Header, payload: bytearray, rng: random.Random) -> None:
    """A tensor without elements that is consistent in itself: the last one, so that no other moves."""
    last = max(header, key=lambda name: header[name]["data_offsets"][1])
    begin, _ = header[last]["data_offsets"]
    header[last] |= {"shape": [0, *header[last]["shape"][1:]], "data_offsets": [begin, begin]}
    del payload[begin:]


def rename(header: Header, payload: bytearray, rng: random.Random) -> None:
    """A tensor has another name, that of another one, or is missing."""
    name = rng.choice(list(header))
    entry = header.pop(name)
    kind = rng.randrange(3)
    if kind == 0:
        header[rng.choice(NAMES)] = entry
    elif kind == 1:
        other = rng.choice(list(header))
        header[name], header[other] = header[other], entry


def swap(header: Header, payload: bytearray, rng: random.Random) -> None:
    """Types and shapes of two tensors change places, their bytes do not."""
    one, other = rng.sample(list(header), 2)
    for field in ("dtype", "shape"):
        header[one][field], header[other][field] = header[other][field], header[one][field]


def add(header: Header, payload: bytearray, rng: random.Random) -> None:
    """One tensor more."""
    begin = len(payload)
    payload += bytes(16)
    header[rng.choice(NAMES)] = {"dtype": "F32", "shape": [4], "data_offsets": [begin, begin + 16]}


def lose_bytes(header: Header, payload: bytearray, rng: random.Random) -> None:
    """The file ends early, or goes on."""
    if rng.random() < 0.7:
        del payload[rng.randrange(len(payload)) :]
    else:
        payload += rng.randbytes(rng.choice((1, 4, 4096)))


DAMAGES: tuple[Damage, ...] = (
    poison, poison, poison, change_dtype, change_shape, change_offsets, empty, rename, swap, add, lose_bytes,
)  # fmt: skip


def mutate_tensors(content: bytes, rng: random.Random) -> bytes:
    """Damage a safetensors file once: what its header says, a stretch of its weights, or any of its bytes."""
    if rng.random() < 0.25:
        return mutate(content, rng)
    length = struct.unpack("<Q", content[:8])[0]
    header, payload = json.loads(content[8 : 8 + length]), bytearray(content[8 + length :])
    metadata = header.pop("__metadata__", None)
    rng.choice(DAMAGES)(header, payload, rng)
    if metadata is not None and rng.random() < 0.8:
        header.setdefault("__metadata__", metadata)
    text = json.dumps(header).encode()
    stated = len(text) if rng.random() < 0.95 else rng.choice((0, len(text) - 1, len(text) + 1, 2**31, 2**63))
    return struct.pack("<Q", stated) + text + bytes(payload)
