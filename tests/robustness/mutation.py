"""Seeded damage to the bytes of a file: as disks, editors, converters and adversaries do it.

One engine for the tests, which try a few hundred mutations of every reader, and for
`benchmarks/commands/robustness.py`, which tries as many as there is time for.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

Mutation = Callable[[bytes, random.Random], bytes]

SCALARS = (
    b"null", b"true", b"0", b"-1", b"1", b"7", b"1.5", b"-0.0", b"1e308", b"-1e308", b"1e-320", b"1e999", b"NaN",
    b"Infinity", b"9223372036854775807", b"9223372036854775808", b"1" + b"0" * 40, b"1" * 5000, b'""', b'"x"', b'"5"',
    b'"\\u0000"', b'"\\ud83d"', b'"../../x"', b'"/dev/zero"', b'"[/bold]"', b"[]", b"{}", b"[[]]", b"[" * 2000,
    b'{"a":1,"a":2}', b"010", b"0x10", b"yes", b"~", b"1_000", b"&a [*a]", b"!!python/object/apply:os.system [x]",
)  # fmt: skip
PIECES = (
    b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b"\xff", b"\xc3", b"\r", b"\n", b"\r\n", b"\t", b",", b";", b'"', b'""',
    b"'", b"\\", b"#", b":", b"- ", b"{", b"}", b"[", b"]", b"\xe2\x80\xa8", b"\xc2\xa0", b"\xe2\x80\x8b", b"\x1b[31m",
    b"=1+1", b"\xed\xa0\x80", b" " * 300, b"x" * 3000,
)  # fmt: skip
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.){0,80}"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|true|false|null|[A-Za-z_][\w./-]*')


def flip_bit(content: bytes, rng: random.Random) -> bytes:
    """One bit, as a disk does it."""
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def cut(content: bytes, rng: random.Random) -> bytes:
    """The file ends early."""
    return content[: rng.randrange(len(content))]


def drop(content: bytes, rng: random.Random) -> bytes:
    """A stretch is missing."""
    begin = rng.randrange(len(content))
    return content[:begin] + content[begin + rng.choice((1, 2, 8, 64, 512)) :]


def repeat(content: bytes, rng: random.Random) -> bytes:
    """A stretch stands there twice."""
    begin = rng.randrange(len(content))
    end = begin + rng.choice((1, 2, 8, 64, 512))
    return content[:end] + content[begin:]


def insert(content: bytes, rng: random.Random) -> bytes:
    """Something that parsers stumble over, at any place."""
    place = rng.randrange(len(content) + 1)
    return content[:place] + rng.choice(PIECES) + content[place:]


def overwrite(content: bytes, rng: random.Random) -> bytes:
    """Random bytes over a stretch."""
    place, size = rng.randrange(len(content)), rng.choice((1, 4, 32))
    return content[:place] + rng.randbytes(size) + content[place + size :]


def change_token(content: bytes, rng: random.Random) -> bytes:
    """Another value or another name in the place of a number, a text or a word."""
    begin = rng.randrange(len(content))
    token = _TOKEN.search(content, begin) or _TOKEN.search(content)
    if token is None:
        return insert(content, rng)
    if rng.random() < 0.3 and (other := _TOKEN.search(content, rng.randrange(len(content)))):
        value = other[0]
    else:
        value = rng.choice(SCALARS)
    return content[: token.start()] + value + content[token.end() :]


def change_line(content: bytes, rng: random.Random) -> bytes:
    """A line is missing, doubled, emptied or in another place."""
    lines = content.split(b"\n")
    line = rng.randrange(len(lines))
    kind = rng.randrange(4)
    if kind == 0:
        del lines[line]
    elif kind == 1:
        lines.insert(rng.randrange(len(lines)), lines[line])
    elif kind == 2:
        lines[line] = b""
    else:
        lines.insert(rng.randrange(len(lines)), lines.pop(line))
    return b"\n".join(lines)


def recode(content: bytes, rng: random.Random) -> bytes:
    """The whole file in another encoding, with other line ends, or compressed."""
    import gzip

    kind = rng.randrange(5)
    if kind == 0:
        return content.replace(b"\n", b"\r\n")
    if kind == 1:
        return content.replace(b"\n", b"\r")
    if kind == 2:
        return b"\xef\xbb\xbf" + content
    if kind == 3:
        return gzip.compress(content)
    return content.decode("latin-1").encode("utf-16")


MUTATIONS: tuple[Mutation, ...] = (
    flip_bit, cut, drop, repeat, insert, insert, overwrite, change_token, change_token, change_token, change_line,
    recode,
)  # fmt: skip


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Damage a file once, sometimes twice or three times; an empty file stays empty."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if content:
            content = rng.choice(MUTATIONS)(content, rng)
    return content
