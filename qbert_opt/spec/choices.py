"""The choices that a weight matrix has, and their price in bytes. The price is taken nowhere else.

A choice is bits + grouping + quantizer method + form. Two groupings exist (facts of the field, not ours):

- `rows:N`: Q-BERT's groups (Shen et al. 2020, section 3.2): N equal ranges of consecutive output rows share one range
  of values each. `rows:heads` is one per attention head, `rows:each` one per row.
- `columns:G`: G consecutive inputs of one output row share a range, as in GPTQ, OpenVINO and ONNX Runtime.

The form says what a range stores, and so what its levels are:

- `offset`: fp16 scale and fp16 offset; `scale * code + offset`.
- `symmetric`: fp16 scale; the odd number of levels `-(2**(b-1)-1) … 2**(b-1)-1` times it, so that zero stays zero.
- `signed`: fp16 scale; all levels `-2**(b-1) … 2**(b-1)-1` times it, as in a two's-complement integer. This is the
  default zero point of ONNX Runtime and the integer types of LiteRT, OpenVINO and GGUF's Q2_0.
- `zero-point`: fp16 scale and an integer zero point of as many bits as a code, packed; `scale * (code - zero)`.
- `codebook`: `2**bits` fp16 values, anywhere (Q-BERT's lookup table per group, SqueezeLLM).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import UsageError

SCALE_BYTES = 2  # fp16
OFFSET_BYTES = 2  # fp16
LEVEL_BYTES = 2  # fp16, one entry of a codebook
Form = Literal["offset", "symmetric", "signed", "zero-point", "codebook"]
FORMS: tuple[Form, ...] = get_args(Form)
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
        form: what a range stores.
    """

    bits: int
    axis: Literal["rows", "columns"]
    num_groups: int
    group_size: int
    form: Form = "offset"

    @property
    def symmetric(self) -> bool:
        """Levels around zero, without a stored offset."""
        return self.form == "symmetric"

    @property
    def fixed_zero(self) -> int | None:
        """The code that stands for 0 in every range, for forms `symmetric` and `signed`; else None."""
        middle = 1 << self.bits - 1
        return {"symmetric": middle - 1, "signed": middle}.get(self.form)


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to store a matrix.

    >>> choice("2bit/columns:128/gptq").bytes(768, 768, heads=12) * 8 / 768**2
    2.25
    """

    bits: int
    grouping: str
    method: str
    form: Form = "offset"

    @property
    def symmetric(self) -> bool:
        """Levels around zero, without a stored offset."""
        return self.form == "symmetric"

    @property
    def name(self) -> str:
        """Short text form, unique within a table of scores; `choice(name)` reads it back."""
        return f"{self.bits}bit/{self.grouping}/{self.method}" + ("" if self.form == "offset" else f"/{self.form}")

    def layout(self, rows: int, columns: int, *, heads: int) -> Layout:
        """Lay the choice over a matrix of `rows` outputs by `columns` inputs.

        Raises:
            UsageError: the groups do not divide the matrix, with the divisors that do; or a codebook has as many
                entries as its group has weights.
        """
        axis, _, size = self.grouping.partition(":")
        if axis == "columns":
            group_size = int(size)
            _check_divides(self.grouping, group_size, columns, "inputs")
            self._check_codebook(group_size)
            return Layout(self.bits, "columns", rows * columns // group_size, group_size, self.form)
        num_groups = {"heads": heads, "each": rows}.get(size) or int(size)
        _check_divides(self.grouping, num_groups, rows, "output rows")
        self._check_codebook(rows // num_groups * columns)
        return Layout(self.bits, "rows", num_groups, rows // num_groups, self.form)

    def code_bytes(self, rows: int, columns: int) -> int:
        """Bytes of the packed codes of a matrix, rounded up to a whole byte."""
        return -(-rows * columns * self.bits // 8)

    def metadata_bytes(self, rows: int, columns: int, *, heads: int) -> int:
        """Bytes of what the ranges of a matrix store."""
        groups = self.layout(rows, columns, heads=heads).num_groups
        if self.form == "codebook":
            return groups * LEVEL_BYTES * (1 << self.bits)
        zeros = {"offset": groups * OFFSET_BYTES, "zero-point": -(-groups * self.bits // 8)}
        return groups * SCALE_BYTES + zeros.get(self.form, 0)

    def bytes(self, rows: int, columns: int, *, heads: int) -> int:
        """Bytes of a matrix as stored: codes and what the ranges store."""
        return self.code_bytes(rows, columns) + self.metadata_bytes(rows, columns, heads=heads)

    def _check_codebook(self, weights: int) -> None:
        if self.form == "codebook" and 2**self.bits >= weights:
            raise UsageError(f"{self.name}: a codebook of {2**self.bits} values for groups of {weights} weights.")


def choice(name: str) -> Choice:
    """Read a choice back from its name.

    Raises:
        UsageError: the text is no choice's name.
    """
    parts = name.split("/")
    if len(parts) not in (3, 4) or not parts[0].removesuffix("bit").isdigit() or not set(parts[3:]) <= set(FORMS[1:]):
        raise UsageError(
            f"choice {name!r}: not of the form BITSbit/GROUPING/METHOD[/FORM], for example 3bit/columns:64/gptq. "
            f"Forms: {', '.join(FORMS[1:])}."
        )
    form = parse_forms(parts[3])[0] if len(parts) == 4 else "offset"
    return Choice(parse_bits(parts[0].removesuffix("bit"))[0], parse_groupings(parts[1])[0], parts[2], form)


def zero_dtype(form: Form) -> Literal["float16", "integer", "none"]:
    """Return how a range of a form stores what stands for zero.

    >>> zero_dtype("zero-point")
    'integer'
    """
    return {"offset": "float16", "zero-point": "integer"}.get(form, "none")  # type: ignore[return-value]


def grid(
    bits: Iterable[int], groupings: Iterable[str], method: str, forms: Iterable[Form] = ("offset",)
) -> tuple[Choice, ...]:
    """Return every bits × grouping × form choice, in that order."""
    groupings, forms = tuple(groupings), tuple(forms)
    return tuple(Choice(b, g, method, f) for b in bits for g in groupings for f in forms)


def default_grid(method: str) -> tuple[Choice, ...]:
    """Return the 28 choices {2, 3, 4, 8} bits × 7 groupings."""
    return grid(DEFAULT_BITS, DEFAULT_GROUPINGS, method)


def parse_bits(text: str, option: str = "--bits") -> tuple[int, ...]:
    """Read `2,3,4,8`.

    Raises:
        UsageError: something else than legal bit widths.
    """
    values = []
    for part in text.split(","):
        if not part.strip().isdigit() or int(part) not in LEGAL_BITS:
            raise UsageError(
                f"{option} {text}: {part.strip()!r} is no bit width. Legal: {', '.join(map(str, LEGAL_BITS))}."
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
                f"`groupings` {text}: {part!r} is no grouping. Legal: rows:N, rows:heads, rows:each, columns:N."
            )
        groupings.append(part)
    return tuple(dict.fromkeys(groupings))


def parse_forms(text: str) -> tuple[Form, ...]:
    """Read `offset,codebook`.

    Raises:
        UsageError: something else than forms.
    """
    parts = [p.strip() for p in text.split(",")]
    for part in parts:
        if part not in FORMS:
            raise UsageError(f"`forms` {text}: {part!r} is no form. Legal: {', '.join(FORMS)}.")
    return tuple(f for f in FORMS if f in parts)


def _check_divides(grouping: str, groups: int, length: int, what: str) -> None:
    if length % groups:
        divisors = [d for d in range(1, min(length, 1024) + 1) if length % d == 0]
        raise UsageError(
            f"grouping {grouping}: {groups} does not divide {length} {what}. Divisors: {', '.join(map(str, divisors))}."
        )
