"""A choice for a weight matrix (bits, grouping, quantizer, form) and its size in bytes, which is computed only here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral
from typing import Literal

from ..errors import UsageError
from ..runtime.plain_text import whole_number
from .forms import (
    AROUND_ZERO,
    FORMS,
    LEGAL_BITS,
    LEVEL_BYTES,
    OFFSET_BYTES,
    SCALE_BYTES,
    TRITS_PER_BYTE,
    Form,
    legal_bits,
    packed_code_bytes,
    parse_bits,
    parse_forms,
)
from .groupings import LEGAL_GROUPINGS, num_groups, parse_groupings


@dataclass(frozen=True, slots=True)
class Layout:
    """A choice applied to one matrix: how many ranges there are, and how many rows or inputs share each.

    Attributes:
        bits: bits of one code.
        axis: `rows` or `columns`.
        num_groups: number of ranges in the whole matrix.
        group_size: rows per range (axis `rows`) or inputs per range (axis `columns`).
        form: what is stored for each range.
    """

    bits: int
    axis: Literal["rows", "columns"]
    num_groups: int
    group_size: int
    form: Form = "offset"

    @property
    def symmetric(self) -> bool:
        """As many levels below zero as above, without a stored offset."""
        return self.form in AROUND_ZERO

    @property
    def fixed_zero(self) -> int | None:
        """The code that stands for 0 in every range, for forms `symmetric`, `ternary` and `signed`; else None."""
        middle = 1 << self.bits - 1
        return middle - 1 if self.symmetric else middle if self.form == "signed" else None

    def code_bytes(self, count: int) -> int:
        """Return the bytes of packed codes, rounded up to a whole byte.

        Args:
            count: number of codes.
        """
        return packed_code_bytes(count, self.bits, self.form)

    def fill_bytes(self, count: int) -> bool:
        """Return whether packed codes fill their last byte, so that the next code starts at a new one.

        Args:
            count: number of codes.
        """
        return count % TRITS_PER_BYTE == 0 if self.form == "ternary" else count * self.bits % 8 == 0


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to store a matrix.

    Attributes:
        bits: of a code, 1 to 8; of form `ternary` 2, of others than `offset` at least 2.
        grouping: `rows:N`, `rows:heads`, `rows:each` or `columns:G`.
        method: name of the quantizer.
        form: what is stored for each range.

    Raises:
        UsageError: bits, a grouping or a form that no matrix can have.

    >>> choice("2bit/columns:128/gptq").bytes(768, 768, heads=12) * 8 / 768**2
    2.25
    """

    bits: int
    grouping: str
    method: str
    form: Form = "offset"

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, Integral) or self.bits not in LEGAL_BITS:
            raise UsageError(f"choice: bits {self.bits!r:.80}; legal: {', '.join(map(str, LEGAL_BITS))}.")
        object.__setattr__(self, "bits", int(self.bits))
        if not isinstance(self.grouping, str) or parse_groupings(self.grouping) != (self.grouping,):
            raise UsageError(f"choice: grouping {self.grouping!r:.80}; legal: {LEGAL_GROUPINGS}.")
        if self.form not in FORMS:
            raise UsageError(f"choice: form {self.form!r:.80}; legal: {', '.join(FORMS)}.")
        if self.bits not in legal_bits(self.form):
            legal = ", ".join(map(str, legal_bits(self.form)))
            raise UsageError(f"choice: bits {self.bits} of form {self.form}; legal: {legal}.")

    @property
    def symmetric(self) -> bool:
        """As many levels below zero as above, without a stored offset."""
        return self.form in AROUND_ZERO

    @property
    def name(self) -> str:
        """Short text form, unique within a score table; `choice(name)` parses it."""
        return f"{self.bits}bit/{self.grouping}/{self.method}" + ("" if self.form == "offset" else f"/{self.form}")

    def layout(self, rows: int, columns: int, *, heads: int) -> Layout:
        """Apply the choice to a matrix.

        Args:
            rows: outputs of the matrix.
            columns: inputs of the matrix.
            heads: attention heads of the model, for `rows:heads`.

        Raises:
            UsageError: the groups do not divide the matrix (the message lists the sizes that do), or a codebook has
                at least as many entries as its group has weights.
        """
        groups = num_groups(self.grouping, rows, columns, heads=heads)
        size = rows * columns // groups
        if self.form == "codebook" and 2**self.bits >= size:
            raise UsageError(f"{self.name}: a codebook of {2**self.bits} values for groups of {size} weights.")
        if self.grouping.startswith("columns:"):
            return Layout(self.bits, "columns", groups, size, self.form)
        return Layout(self.bits, "rows", groups, rows // groups, self.form)

    def code_bytes(self, rows: int, columns: int) -> int:
        """Return the bytes of a matrix's packed codes, rounded up to a whole byte.

        Args:
            rows: outputs of the matrix.
            columns: inputs of the matrix.
        """
        return packed_code_bytes(rows * columns, self.bits, self.form)

    def metadata_bytes(self, rows: int, columns: int, *, heads: int) -> int:
        """Return the bytes of a matrix's scales and offsets, zero points or codebooks.

        Args:
            rows: outputs of the matrix.
            columns: inputs of the matrix.
            heads: attention heads of the model, for `rows:heads`.

        Raises:
            UsageError: as `layout`.
        """
        groups = self.layout(rows, columns, heads=heads).num_groups
        if self.form == "codebook":
            return groups * LEVEL_BYTES * (1 << self.bits)
        zeros = {"offset": groups * OFFSET_BYTES, "zero-point": -(-groups * self.bits // 8)}
        return groups * SCALE_BYTES + zeros.get(self.form, 0)

    def bytes(self, rows: int, columns: int, *, heads: int) -> int:
        """Return the bytes of a matrix as stored: codes and metadata.

        Args:
            rows: outputs of the matrix.
            columns: inputs of the matrix.
            heads: attention heads of the model, for `rows:heads`.

        Raises:
            UsageError: as `layout`.
        """
        return self.code_bytes(rows, columns) + self.metadata_bytes(rows, columns, heads=heads)


@lru_cache(maxsize=4096)  # tables of scores name their choices, and plans are made from them by the hundred
def choice(name: str) -> Choice:
    """Parse the name of a choice.

    Args:
        name: `BITSbit/GROUPING/METHOD[/FORM]`, for example `3bit/columns:64/gptq`.

    Raises:
        UsageError: the text is not of this form.
    """
    parts = name.split("/")
    bits = whole_number(parts[0].removesuffix("bit"))
    if len(parts) not in (3, 4) or bits is None or not set(parts[3:]) <= set(FORMS[1:]) or "," in parts[1]:
        raise UsageError(
            f"choice {name!r}: not of the form BITSbit/GROUPING/METHOD[/FORM], for example 3bit/columns:64/gptq. "
            f"Forms: {', '.join(FORMS[1:])}."
        )
    form = parse_forms(parts[3])[0] if len(parts) == 4 else "offset"
    [width] = parse_bits(parts[0].removesuffix("bit"), f"choice {name!r}: bits")
    [grouping] = parse_groupings(parts[1], f"choice {name!r}: grouping")
    return Choice(width, grouping, parts[2], form)
