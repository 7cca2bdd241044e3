"""Grids of choices: bits × groupings × forms of one quantizer."""

from __future__ import annotations

from collections.abc import Iterable

from .choices import Choice
from .forms import Form, check_widths, legal_bits

DEFAULT_BITS = (2, 3, 4, 8)
DEFAULT_GROUPINGS = ("rows:1", "rows:heads", "rows:128", "rows:each", "columns:32", "columns:64", "columns:128")


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


def default_grid(method: str) -> tuple[Choice, ...]:
    """Return the 28 default choices: {2, 3, 4, 8} bits × 7 groupings.

    Args:
        method: name of the quantizer.
    """
    return grid(DEFAULT_BITS, DEFAULT_GROUPINGS, method)
