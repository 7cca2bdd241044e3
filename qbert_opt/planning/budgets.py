"""Budgets as people write them: `25MB`, `23.8MiB`, `2.5bit`, `13x`."""

from __future__ import annotations

import re

from hwmodels import DeviceError, parse_bytes

from ..errors import UsageError

FLOAT_BITS = 32
LEGAL = "Legal: bytes with a unit (25MB, 23.8MiB), average bits per weight (2.5bit), or a factor (13x)"
_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(bits?|x)\s*")


def parse_budget(text: str, elements: int, option: str) -> int:
    """Return a budget in bytes.

    Args:
        text: bytes with a unit (`25MB`), average bits per weight (`2.5bit`), or a compression factor relative to
            float32 (`13x`).
        elements: weights that the budget covers.
        option: name of the option, for error messages.

    Raises:
        UsageError: it is not text, there is no unit, the unit is unknown or ambiguous (`25Mb` may be megabits), or the
            budget is not positive.
    """
    if not isinstance(text, str):
        raise UsageError(f"{option} {text!r:.80}: has no unit. {LEGAL}.")
    match = _NUMBER.fullmatch(text)
    if match:
        number = float(match[1])
        if number <= 0:
            raise UsageError(f"{option} {text}: must be more than 0.")
        bits = FLOAT_BITS / number if match[2] == "x" else number
        return int(bits * elements / 8)
    try:
        size = parse_bytes(text)
    except DeviceError as error:
        reason, *_, hint = str(error).split("; ")
        ambiguous = f"; {hint}" if "does not say" in hint else ""
        raise UsageError(f"{option} {text}: {reason}{ambiguous}. {LEGAL}.") from None
    if size <= 0:
        raise UsageError(f"{option} {text}: must be more than 0.")
    return size
