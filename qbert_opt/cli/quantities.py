"""Quantities on the command line: a number with its unit; errors name the option."""

from __future__ import annotations

from collections.abc import Sequence

from hwmodels import DeviceError, parse_bytes, parse_quantity

from ..errors import UsageError
from ..runtime.plain_text import whole_number


def seconds(text: str | None, option: str) -> float | None:
    """Read `20ms`; None stays None.

    Args:
        text: a number and a unit of time.
        option: the flag, for the message.
    """
    return _quantity(text, "time", option)


def energy(text: str | None, option: str) -> float | None:
    """Read `100mJ`; None stays None.

    Args:
        text: a number and a unit of energy.
        option: the flag, for the message.
    """
    return _quantity(text, "energy", option)


def bandwidth(text: str | None, option: str) -> float | None:
    """Read `2GB/s`; None stays None.

    Args:
        text: a number and a unit of bytes per second.
        option: the flag, for the message.
    """
    return _quantity(text, "bandwidth", option)


def size(text: str | None, option: str) -> int | None:
    """Read `64MiB`; None stays None.

    Args:
        text: a number and a unit of bytes; powers of 1000 (MB) or of 1024 (MiB).
        option: the flag, for the message.
    """
    if text is None:
        return None
    try:
        return parse_bytes(text)
    except DeviceError as error:
        raise UsageError(f"{option} {text}: {error}") from None


def parse_pins(pins: Sequence[str]) -> dict[str, int]:
    """Read `NAME=8` options.

    Args:
        pins: each has a part of a matrix's name and its bit width.

    Raises:
        UsageError: a pin does not have this form, or contradicts another.
    """
    parsed: dict[str, int] = {}
    for pin in pins:
        name, _, bits = pin.rpartition("=")
        width = whole_number(bits)
        if not name or width is None:
            raise UsageError(f"--pin {pin}: not of the form NAME=BITS, for example --pin layer.0.output=8.")
        if parsed.get(name, width) != width:
            raise UsageError(f"--pin {pin}: {name} is pinned to {parsed[name]} bits already. Keep one of them.")
        parsed[name] = width
    return parsed


def _quantity(text: str | None, kind: str, option: str) -> float | None:
    if text is None:
        return None
    try:
        return parse_quantity(text, kind)
    except DeviceError as error:
        raise UsageError(f"{option} {text}: {error}") from None


def share(text: str, option: str) -> float:
    """Read `5%` or `0.05`.

    Args:
        text: a percentage, or a number of at least 0.
        option: the flag, for the message.

    Raises:
        UsageError: it is not a number, or is negative.
    """
    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        value = float(number) / (100 if percent else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UsageError(f"{option} {text}: not a share. Legal: 0 or more, for example 5% or 0.05.")
    return value


def shares(text: str, option: str) -> tuple[float, ...]:
    """Read a list of shares such as `5%,15%`.

    Args:
        text: shares with commas between them.
        option: the flag, for the message.

    Raises:
        UsageError: a share is empty, not a number, or negative.
    """
    parts = [part.strip() for part in text.split(",")]
    if "" in parts:
        raise UsageError(f"{option} {text!r}: share {parts.index('') + 1} of the list is empty.")
    return tuple(share(part, option) for part in parts)


def lengths(text: str, option: str) -> dict[int, float]:
    """Read a histogram of lengths such as `16:30,64:50,128:20`.

    Args:
        text: tokens (above 0) and a frequency (at least 0) for each length.
        option: the flag, for the message.

    Raises:
        UsageError: the text does not have this form.
    """
    parsed: dict[int, float] = {}
    for part in text.split(","):
        tokens, _, often = part.strip().partition(":")
        try:
            weight = float(often)
        except ValueError:
            weight = -1.0
        length = whole_number(tokens) or 0
        if not 0 < length < 1e6 or not 0 <= weight < 1e300 or length in parsed:
            raise UsageError(
                f"{option} {part}: not of the form TOKENS:OFTEN with each length once, for example 16:30,64:50,128:20."
            )
        parsed[length] = weight
    if not sum(parsed.values()):
        raise UsageError(f"{option} {text}: no length has a weight above 0.")
    return parsed


def listed(text: str, option: str) -> tuple[str, ...]:
    """Read a list of different names such as `a,b,c`.

    Args:
        text: names with commas between them.
        option: the flag, for the message.

    Raises:
        UsageError: a name is empty, or named twice.
    """
    names = tuple(part.strip() for part in text.split(","))
    for number, name in enumerate(names):
        if not name:
            raise UsageError(f"{option} {text!r}: name {number + 1} of the list is empty.")
        if name in names[:number]:
            raise UsageError(f"{option} {text}: {name} is named twice. Keep one of them.")
    return names


def weights(text: str, option: str) -> dict[str, float]:
    """Read weights by name such as `a,b:0.5`; a name alone has weight 1.

    Args:
        text: names, each with `:NUMBER` or not, with commas between them.
        option: the flag, for the message.

    Raises:
        UsageError: a name is empty or named twice, or a weight is not a number.
    """
    pairs = [part.partition(":") for part in text.split(",")]
    names = listed(",".join(name for name, _, _ in pairs), option)
    values = {}
    for name, (_, colon, number) in zip(names, pairs, strict=True):
        try:
            values[name] = float(number) if colon else 1.0
        except ValueError:
            raise UsageError(
                f"{option} {text}: {number.strip()!r} is not a number. Give {name} or {name}:0.5."
            ) from None
    return values


def resources(text: str) -> tuple[str, ...]:
    """Read one or two resources of a frontier, for example `bytes,latency`.

    Args:
        text: one name, or two with a comma between them.

    Raises:
        UsageError: unknown, or more than two.
    """
    from ..planning.constraints import RESOURCES

    names = listed(text, "--resource")
    if len(names) > 2:
        raise UsageError(f"--resource {text}: at most two at once.")
    for name in names:
        if name not in RESOURCES:
            raise UsageError(f"--resource {name}: legal: {', '.join(RESOURCES)}.")
    return names
