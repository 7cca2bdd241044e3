"""Read files that somebody else wrote: regular files of a checked size, strict UTF-8, strict JSON.

Whatever is wrong with a file becomes one `InputFileError` that names the file and, where there is one, the line.
"""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any

from ..errors import InputFileError

MAX_JSON_DEPTH = 64  # no document or data set nests deeper; far below the interpreter's recursion limit
JSON_BLANKS = " \t\r\n"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_BYTE_ORDER_MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


class Literal(str):
    """A JSON number as the file writes it: `2.50`, `1e5` or 30 digits stay what they are."""

    __slots__ = ()


def file_size(path: Path) -> int:
    """Size of a regular file in bytes.

    Args:
        path: as the user gave it.

    Raises:
        InputFileError: missing, or a folder, a pipe or a device.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise InputFileError(f"{path}: no such file.") from None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise InputFileError(f"{path}: is {kind}, not a file. Give a file.")
    return status.st_size


def check_input(path: Path, max_bytes: int, what: str) -> None:
    """Refuse what cannot be read as a file, before it is read.

    Args:
        path: the file.
        max_bytes: the largest size that is accepted.
        what: what the file is meant to be, for the message.

    Raises:
        InputFileError: missing, not a regular file, too large, unreadable, or only a Git LFS pointer.
    """
    size = file_size(path)
    if size > max_bytes:
        raise InputFileError(f"{path}: {size} bytes; {what} has at most {max_bytes}.")
    try:
        with path.open("rb") as file:
            head = file.read(len(LFS_POINTER))
    except OSError as error:
        raise _unreadable(path, error) from None
    if head == LFS_POINTER:
        raise InputFileError(f"{path}: is a Git LFS pointer, not the file itself. Run 'git lfs pull' there first.")


def read_bytes(path: Path, max_bytes: int, what: str) -> bytes:
    """Read a whole file; arguments and refusals are those of `check_input`.

    Args:
        path: as the user gave it.
        max_bytes: largest size that is read.
        what: for the message, for example "a data file".

    Raises:
        InputFileError: missing, not a regular file, too large, unreadable, or only a Git LFS pointer.
    """
    check_input(path, max_bytes, what)
    try:
        with path.open("rb") as file:
            most = min(max_bytes, os.fstat(file.fileno()).st_size)  # read() takes as much memory as it is asked for
            content = file.read(most + 1)
    except OSError as error:
        raise _unreadable(path, error) from None
    if len(content) > max_bytes:
        raise InputFileError(f"{path}: more than {max_bytes} bytes; {what} has no more.")
    return content


def decode_text(content: bytes, where: str | Path) -> str:
    """Decode strict UTF-8, with or without a byte order mark.

    Args:
        content: the whole file.
        where: where it is from, for messages.

    Raises:
        InputFileError: another encoding, or a NUL byte; names the first offending line.
    """
    for mark, name in _BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            raise InputFileError(f"{where}: is {name} text. Save it as UTF-8.")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputFileError(
            f"{where}: line {line}: byte 0x{content[error.start]:02x} is not UTF-8. Save the file as UTF-8."
        ) from None
    nul = text.find("\0")
    if nul >= 0:
        raise InputFileError(
            f"{where}: line {text.count(chr(10), 0, nul) + 1}: holds a NUL byte; the file is binary or not UTF-8. "
            "Save it as UTF-8 text."
        )
    return text.removeprefix("\ufeff")


def text_lines(text: str, where: str | Path) -> list[str]:
    r"""Split a text into lines that end in LF, CR LF, or CR where there is no LF; line endings are removed.

    Unlike `str.splitlines` this leaves U+2028, form feeds and the like alone: they are characters of a text. A last
    line that is empty is none.

    Args:
        text: the whole file.
        where: where it is from, for messages.

    Raises:
        InputFileError: a carriage return inside a line.
    """
    if "\n" not in text:
        lines = text.split("\r")
    else:
        lines = [line.removesuffix("\r") for line in text.split("\n")]
        stray = next((number for number, line in enumerate(lines, 1) if "\r" in line), None) if "\r" in text else None
        if stray is not None:
            raise InputFileError(
                f"{where}: line {stray}: holds a carriage return in the middle. End all lines alike, with LF or CR LF."
            )
    if lines[-1] == "":
        lines.pop()
    return lines


def parse_json(text: str, where: str | Path, *, literal_numbers: bool = False, first_line: int = 1) -> Any:
    """Parse JSON strictly.

    Args:
        text: one JSON value.
        where: the file, for messages.
        literal_numbers: give numbers as `Literal` text instead of int and float.
        first_line: line of the file that the text starts in.

    Raises:
        InputFileError: no JSON, a key that occurs twice in an object, NaN or infinite numbers, half a surrogate pair,
            or values nested deeper than `MAX_JSON_DEPTH`; names the line.
    """
    value, end = parse_json_at(text, 0, where, literal_numbers=literal_numbers, line=first_line)
    rest = text[end:].lstrip(JSON_BLANKS)
    if rest:
        line = first_line + text.count("\n", 0, len(text) - len(rest))
        raise InputFileError(f"{where}: line {line}: Invalid JSON: {quoted(rest)} after the end of the value.")
    return value


def parse_json_at(
    text: str, start: int, where: str | Path, *, literal_numbers: bool = False, line: int = 1
) -> tuple[Any, int]:
    """Parse the JSON value that begins at `start`, or after the blanks there.

    Args:
        text: what holds the value.
        start: index of its first character, or of blanks before it.
        where: the file, for messages.
        literal_numbers: give numbers as `Literal` text instead of int and float.
        line: line of the file that `start` is in.

    Returns:
        The value, and the index of the character behind it.

    Raises:
        InputFileError: as `parse_json`, but for what follows the value.
    """
    begin = start
    while begin < len(text) and text[begin] in JSON_BLANKS:
        begin += 1
    line += text.count("\n", start, begin)
    try:
        value, end = (_LITERAL_DECODER if literal_numbers else _DECODER).raw_decode(text, begin)
        _check(value)
    except json.JSONDecodeError as error:
        line += text.count("\n", begin, error.pos)
        raise InputFileError(f"{where}: line {line}: Invalid JSON: {error.msg}.") from None
    except RecursionError:
        raise InputFileError(f"{where}: line {line}: JSON nested deeper than {MAX_JSON_DEPTH} levels.") from None
    except _RefusedJson as refusal:
        raise InputFileError(f"{where}: line {line}: {refusal}.") from None
    return value, end


class _RefusedJson(Exception):
    """What the JSON standard leaves open and this project refuses."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _RefusedJson(f"key {quoted(twice)} occurs twice in one object; keep one")
    return found


def _integer(text: str) -> int:
    if len(text) > 30:  # no count, size or seed has so many digits; more than 4300 do not even parse
        raise _RefusedJson(f"an integer of {len(text.lstrip('-'))} digits; 30 are the most")
    return int(text)


def _constant(text: str) -> float:
    return float(text.replace("Infinity", "inf"))  # refused afterwards, by the name of its field


def _literal_constant(text: str) -> str:
    raise _RefusedJson(f"{text} is not a JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_constant=_constant)
_LITERAL_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=Literal, parse_float=Literal, parse_constant=_literal_constant
)


def _check(value: Any, path: tuple[str | int, ...] = ()) -> None:
    """Raise `_RefusedJson` for what parses and is refused nevertheless: depth, numbers, half characters."""
    if len(path) > MAX_JSON_DEPTH:
        raise _RefusedJson(f"JSON nested deeper than {MAX_JSON_DEPTH} levels")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _RefusedJson(f"{_at(path)}is {value}; every number must be finite")
    elif isinstance(value, str):
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise _RefusedJson(f"{_at(path)}holds half of a surrogate pair, which is no character")
    elif isinstance(value, dict):
        for key, child in value.items():
            _check(key, path)
            _check(child, (*path, key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            if type(child) is float and math.isfinite(child):  # nearly all of a table of scores
                continue
            _check(child, (*path, index))


def _at(path: tuple[str | int, ...]) -> str:
    return f"{'.'.join(map(str, path))}: " if path else ""


def quoted(text: str) -> str:
    """A text from a file for a message: in quotes, what does not print made visible, cut where it is long.

    Args:
        text: of any length and content.
    """
    return repr(text if len(text) <= 40 else text[:40] + "…")


def _unreadable(path: Path, error: Exception) -> InputFileError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    shown = os.fspath(path)
    return InputFileError(f"{shown if len(shown) <= 200 else shown[:200] + '…'}: cannot be read: {reason}.")
