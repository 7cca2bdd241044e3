"""The choices that a weight matrix has, and their price in bytes. The price is taken nowhere else.

A choice is bits + grouping + symmetric or not + quantizer method. Two groupings exist (facts of the field, not ours):

- `rows:N`: Q-BERT's groups (Shen et al. 2020, section 3.2): N equal ranges of consecutive output rows share one range
  of values each. `rows:heads` is one per attention head, `rows:each` one per row.
- `columns:G`: G consecutive inputs of one output row share a range, as in GPTQ, OpenVINO and ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from .errors import UsageError

SCALE_BYTES = 2  # fp16
OFFSET_BYTES = 2  # fp16
LEGAL_BITS = (2, 3, 4, 5, 6, 7, 8)
DEFAULT_BITS = (2, 3, 4, 8)
DEFAULT_GROUPINGS = ("rows:1", "rows:heads", "rows:128", "rows:each", "columns:32", "columns:64", "columns:128")


@dataclass(frozen=True, slots=True)
class Layout:
    """A choice laid over one matrix: how many ranges of how many rows or inputs.

    Attributes:
        bits: bits of one code.
        axis: `rows` or `columns`.
        num_groups: ranges in the whole matrix.
        group_size: rows per range (axis `rows`) or inputs per range (axis `columns`).
        symmetric: ranges around zero, without a stored offset.
    """

    bits: int
    axis: Literal["rows", "columns"]
    num_groups: int
    group_size: int
    symmetric: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to store a matrix.

    >>> choice("2bit/columns:128/gptq").bytes(768, 768, heads=12) * 8 / 768**2
    2.25
    """

    bits: int
    grouping: str
    method: str
    symmetric: bool = False

    @property
    def name(self) -> str:
        """Short text form, unique within a table of scores; `choice(name)` reads it back."""
        return f"{self.bits}bit/{self.grouping}/{self.method}" + ("/symmetric" if self.symmetric else "")

    def layout(self, rows: int, columns: int, *, heads: int) -> Layout:
        """Lay the choice over a matrix of `rows` outputs by `columns` inputs.

        Raises:
            UsageError: the groups do not divide the matrix; names the divisors that do.
        """
        axis, _, size = self.grouping.partition(":")
        if axis == "columns":
            group_size = int(size)
            _check_divides(self.grouping, group_size, columns, "inputs")
            return Layout(self.bits, "columns", rows * columns // group_size, group_size, self.symmetric)
        num_groups = {"heads": heads, "each": rows}.get(size) or int(size)
        _check_divides(self.grouping, num_groups, rows, "output rows")
        return Layout(self.bits, "rows", num_groups, rows // num_groups, self.symmetric)

    def code_bytes(self, rows: int, columns: int) -> int:
        """Bytes of the packed codes of a matrix, rounded up to a whole byte."""
        return -(-rows * columns * self.bits // 8)

    def metadata_bytes(self, rows: int, columns: int, *, heads: int) -> int:
        """Bytes of scales and offsets of a matrix."""
        per_group = SCALE_BYTES + (0 if self.symmetric else OFFSET_BYTES)
        return self.layout(rows, columns, heads=heads).num_groups * per_group

    def bytes(self, rows: int, columns: int, *, heads: int) -> int:
        """Bytes of a matrix as stored: codes, scales and offsets."""
        return self.code_bytes(rows, columns) + self.metadata_bytes(rows, columns, heads=heads)


def choice(name: str) -> Choice:
    """Read a choice back from its name.

    Raises:
        UsageError: the text is no choice's name.
    """
    parts = name.split("/")
    symmetric = parts[-1] == "symmetric"
    if symmetric:
        parts = parts[:-1]
    if len(parts) != 3 or not parts[0].removesuffix("bit").isdigit():
        raise UsageError(f"choice {name!r}: not of the form BITSbit/GROUPING/METHOD, for example 3bit/columns:64/gptq.")
    return Choice(parse_bits(parts[0].removesuffix("bit"))[0], parse_groupings(parts[1])[0], parts[2], symmetric)


def grid(bits: Iterable[int], groupings: Iterable[str], method: str, *, symmetric: bool = False) -> tuple[Choice, ...]:
    """Return every bits × grouping choice, in that order."""
    groupings = tuple(groupings)
    return tuple(Choice(b, g, method, symmetric) for b in bits for g in groupings)


def default_grid(method: str) -> tuple[Choice, ...]:
    """Return the 28 choices {2, 3, 4, 8} bits × 7 groupings."""
    return grid(DEFAULT_BITS, DEFAULT_GROUPINGS, method)


def parse_bits(text: str) -> tuple[int, ...]:
    """Read `2,3,4,8`.

    Raises:
        UsageError: something else than legal bit widths.
    """
    values = []
    for part in text.split(","):
        if not part.strip().isdigit() or int(part) not in LEGAL_BITS:
            raise UsageError(
                f"--bits {text}: {part.strip()!r} is no bit width. Legal: {', '.join(map(str, LEGAL_BITS))}."
            )
        values.append(int(part))
    return tuple(dict.fromkeys(values))


def parse_groupings(text: str) -> tuple[str, ...]:
    """Read `rows:128,columns:64`.

    Raises:
        UsageError: something else than groupings.
    """
    groupings = []
    for part in (p.strip() for p in text.split(",")):
        axis, _, size = part.partition(":")
        named = size in ("heads", "each") and axis == "rows"
        if axis not in ("rows", "columns") or not (named or (size.isdigit() and int(size) > 0)):
            raise UsageError(
                f"--groupings {text}: {part!r} is no grouping. Legal: rows:N, rows:heads, rows:each, columns:N."
            )
        groupings.append(part)
    return tuple(dict.fromkeys(groupings))


def _check_divides(grouping: str, groups: int, length: int, what: str) -> None:
    if length % groups:
        divisors = [d for d in range(1, min(length, 1024) + 1) if length % d == 0]
        raise UsageError(
            f"grouping {grouping}: {groups} does not divide {length} {what}. Divisors: {', '.join(map(str, divisors))}."
        )
