"""The choices for a weight matrix and their size in bytes, which is computed only here.

A choice is bits + grouping + quantizer method + form. There are two kinds of grouping:

- `rows:N`: Q-BERT's group-wise quantization (Shen et al. 2020, section 3.2): the output rows are cut into N groups of
  consecutive rows, and each group shares one range. `rows:heads` is one group per attention head, `rows:each` one per
  row (per-channel).
- `columns:G`: G consecutive inputs of one output row share a range, as in GPTQ, OpenVINO and ONNX Runtime.

The form determines what is stored for each range, and so which levels it has:

- `offset`: fp16 scale and fp16 offset; `scale * code + offset`.
- `symmetric`: fp16 scale; the odd number of levels `-(2**(b-1)-1) … 2**(b-1)-1` times the scale, so zero is exact.
- `signed`: fp16 scale; all levels `-2**(b-1) … 2**(b-1)-1` times the scale, as in a two's-complement integer: the
  default zero point of ONNX Runtime, and the integer types of LiteRT, OpenVINO and GGUF's Q2_0.
- `zero-point`: fp16 scale and an integer zero point of as many bits as a code, packed; `scale * (code - zero)`.
- `codebook`: `2**bits` arbitrary fp16 values (Q-BERT's lookup table per group, SqueezeLLM).
- `ternary`: fp16 scale; the levels of `symmetric` at 2 bits, -1, 0 and 1 times the scale, with five codes packed into a
  byte (3**5 = 243): 1.6 bits per code. 2 bits is the width of a code that is unpacked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral
from typing import Literal, get_args

from ..errors import UsageError
from ..runtime.plain_text import whole_number

SCALE_BYTES = 2  # fp16
OFFSET_BYTES = 2  # fp16
LEVEL_BYTES = 2  # fp16, one entry of a codebook
Form = Literal["offset", "symmetric", "signed", "zero-point", "codebook", "ternary"]
FORMS: tuple[Form, ...] = get_args(Form)
AROUND_ZERO: tuple[Form, ...] = ("symmetric", "ternary")  # as many levels below zero as above
TRITS_PER_BYTE = 5
LEGAL_BITS = (2, 3, 4, 5, 6, 7, 8)
DEFAULT_BITS = (2, 3, 4, 8)
LEGAL_GROUPINGS = "rows:N, rows:heads, rows:each, columns:N"
DEFAULT_GROUPINGS = ("rows:1", "rows:heads", "rows:128", "rows:each", "columns:32", "columns:64", "columns:128")


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
        bits: of a code, 2 to 8; of form `ternary`, 2.
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
            raise UsageError(f"choice: {self.bits} bits of form {self.form}; legal: 2.")

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


def packed_code_bytes(count: int, bits: int, form: Form) -> int:
    """Return the bytes of packed codes, rounded up to a whole byte.

    Args:
        count: number of codes.
        bits: of a code.
        form: `ternary` packs five codes into a byte, other forms leave no gaps between codes of `bits` bits.

    >>> packed_code_bytes(384 * 384, 2, "ternary") * 8 / 384**2
    1.6000434027777777
    """
    return -(-count // TRITS_PER_BYTE) if form == "ternary" else -(-count * bits // 8)


def legal_bits(form: Form) -> tuple[int, ...]:
    """Return the widths that codes of a form may have.

    Args:
        form: what is stored for each range.
    """
    return (2,) if form == "ternary" else LEGAL_BITS


def num_groups(grouping: str, rows: int, columns: int, *, heads: int) -> int:
    """Return the number of ranges that a grouping gives a matrix.

    Args:
        grouping: `rows:N`, `rows:heads`, `rows:each` or `columns:G`.
        rows: outputs of the matrix.
        columns: inputs of the matrix.
        heads: attention heads of the model, for `rows:heads`.

    Raises:
        UsageError: the groups do not divide the matrix; the message lists the sizes that do.
    """
    axis, _, size = grouping.partition(":")
    number = {"heads": heads, "each": rows}.get(size) or int(size)
    length, what = (columns, "inputs") if axis == "columns" else (rows, "output rows")
    if length % number:
        divisors = [d for d in range(1, min(length, 1024) + 1) if length % d == 0]
        raise UsageError(
            f"grouping {grouping}: {number} does not divide {length} {what}. Divisors: {', '.join(map(str, divisors))}."
        )
    return rows * columns // number if axis == "columns" else number


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
    """Return every choice of bits × grouping × form, in that order, each once; `ternary` only at 2 bits.

    Args:
        bits: bit widths.
        groupings: groupings.
        method: name of the quantizer.
        forms: what is stored for each range.

    Raises:
        UsageError: a form has none of the widths.
    """
    bits, groupings, forms = tuple(bits), tuple(groupings), tuple(forms)
    check_widths(bits, forms)
    return tuple(
        dict.fromkeys(Choice(b, g, method, f) for b in bits for g in groupings for f in forms if b in legal_bits(f))
    )


def check_widths(bits: Sequence[int], forms: Sequence[Form]) -> None:
    """Refuse a form that would have no choice at any of these widths.

    Args:
        bits: bit widths, each legal.
        forms: what is stored for each range.

    Raises:
        UsageError: names the form.
    """
    for form in forms:
        if not set(bits) & set(legal_bits(form)):
            raise UsageError(f"`forms` {form}: has 2 bits only, and 2 is not among the bits {_listed(bits)}.")


def _listed(bits: Sequence[int]) -> str:
    return ", ".join(map(str, bits))


def default_grid(method: str) -> tuple[Choice, ...]:
    """Return the 28 default choices: {2, 3, 4, 8} bits × 7 groupings.

    Args:
        method: name of the quantizer.
    """
    return grid(DEFAULT_BITS, DEFAULT_GROUPINGS, method)


def parse_bits(text: str, option: str = "--bits") -> tuple[int, ...]:
    """Parse bit widths such as `2,3,4,8`.

    Args:
        text: comma-separated integers from 2 to 8.
        option: name of the option, for error messages.

    Raises:
        UsageError: a part of the text is not a legal bit width.
    """
    values = []
    for part in (p.strip() for p in text.split(",")):
        bits = whole_number(part)
        if bits not in LEGAL_BITS:
            raise UsageError(f"{option} {text}: {part!r} is not a bit width. Legal: {', '.join(map(str, LEGAL_BITS))}.")
        values.append(bits)
    return tuple(dict.fromkeys(values))


def parse_groupings(text: str) -> tuple[str, ...]:
    """Parse groupings such as `rows:128,columns:64`.

    Args:
        text: comma-separated groupings: `rows:N`, `rows:heads`, `rows:each` or `columns:N`.

    Raises:
        UsageError: a part of the text is not a grouping.
    """
    groupings = []
    for part in (p.strip() for p in text.split(",")):
        axis, _, size = part.partition(":")
        named, number = size in ("heads", "each") and axis == "rows", whole_number(size)
        if axis not in ("rows", "columns") or not (named or number):
            raise UsageError(f"`groupings` {text}: {part!r} is not a grouping. Legal: {LEGAL_GROUPINGS}.")
        groupings.append(part if named else f"{axis}:{number}")
    return tuple(dict.fromkeys(groupings))


def parse_forms(text: str) -> tuple[Form, ...]:
    """Parse forms such as `offset,codebook`.

    Args:
        text: comma-separated names in `FORMS`.

    Raises:
        UsageError: a part of the text is not a form.
    """
    parts = [p.strip() for p in text.split(",")]
    for part in parts:
        if part not in FORMS:
            raise UsageError(f"`forms` {text}: {part!r} is not a form. Legal: {', '.join(FORMS)}.")
    return tuple(f for f in FORMS if f in parts)
