"""The forms of a quantized matrix: what is stored for each range, and so which levels it has.

- `offset`: fp16 scale and fp16 offset; `scale * code + offset`. The only form that may have 1 bit, so two levels.
- `symmetric`: fp16 scale; the odd number of levels `-(2**(b-1)-1) … 2**(b-1)-1` times the scale, so zero is exact.
- `signed`: fp16 scale; all levels `-2**(b-1) … 2**(b-1)-1` times the scale, as in a two's-complement integer: the
  default zero point of ONNX Runtime, and the integer types of LiteRT, OpenVINO and GGUF's Q2_0.
- `zero-point`: fp16 scale and an integer zero point of as many bits as a code, packed; `scale * (code - zero)`.
- `codebook`: `2**bits` arbitrary fp16 values (Q-BERT's lookup table per group, SqueezeLLM).
- `ternary`: fp16 scale; the levels of `symmetric` at 2 bits, -1, 0 and 1 times the scale, with five codes packed into a
  byte (3**5 = 243): 1.6 bits per code. 2 bits is the width of a code that is unpacked.
"""

from __future__ import annotations

from collections.abc import Sequence
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
LEGAL_BITS = (1, 2, 3, 4, 5, 6, 7, 8)
ENGINE_BITS = LEGAL_BITS[1:]  # no engine stores 1-bit codes, so none is benched with them


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
    return {"offset": LEGAL_BITS, "ternary": (2,)}.get(form, LEGAL_BITS[1:])


def zero_dtype(form: Form) -> Literal["float16", "integer", "none"]:
    """Return how a range of a form stores what stands for zero.

    Args:
        form: of the ranges.

    >>> zero_dtype("zero-point")
    'integer'
    """
    return {"offset": "float16", "zero-point": "integer"}.get(form, "none")  # type: ignore[return-value]


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
            raise UsageError(
                f"`forms` {form}: has no choice at {_listed(bits)} bits. Legal widths: {_listed(legal_bits(form))}."
            )


def _listed(bits: Sequence[int]) -> str:
    return ", ".join(map(str, bits))


def parse_bits(text: str, option: str = "--bits") -> tuple[int, ...]:
    """Parse bit widths such as `2,3,4,8`.

    Args:
        text: comma-separated integers from 1 to 8.
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
