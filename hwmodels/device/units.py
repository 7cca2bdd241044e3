"""Quantities with compulsory units: strings outside, SI numbers inside.

`MB` is 10**6 bytes and `MiB` is 2**20 (IEC 80000-13). A number without a unit is refused, because it could mean bits,
bytes or mebibytes. `Gb/s` is refused because it does not say bit or byte: write `Gbit/s` or `GB/s`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

from .errors import DeviceError

_NUMBER = r"[+-]?(?:[0-9]{1,24}(?:\.[0-9]{0,24})?|\.[0-9]{1,24})(?:[eE][+-]?[0-9]{1,3})?"
_QUANTITY = re.compile(rf"[ \t]*({_NUMBER})[ \t]*([A-Za-zµμ/]{{0,24}})[ \t]*")

# (data, time, energy, transfers): exponents of what a unit measures; its size in bytes, seconds, joules, transfers
_UNITS: dict[tuple[str, str], tuple[Fraction, tuple[int, ...]]] = {
    ("B", "byte"): (Fraction(1), (1, 0, 0, 0)),
    ("bit", "bit"): (Fraction(1, 8), (1, 0, 0, 0)),
    ("s", "second"): (Fraction(1), (0, 1, 0, 0)),
    ("Hz", "hertz"): (Fraction(1), (0, -1, 0, 0)),
    ("T", "transfer"): (Fraction(1), (0, 0, 0, 1)),
    ("J", "joule"): (Fraction(1), (0, 0, 1, 0)),
    ("W", "watt"): (Fraction(1), (0, -1, 1, 0)),
}
_PREFIXES: dict[tuple[str, str], Fraction] = {
    ("", ""): Fraction(1),
    ("p", "pico"): Fraction(1, 10**12),
    ("n", "nano"): Fraction(1, 10**9),
    ("u", "micro"): Fraction(1, 10**6),
    ("µ", "micro"): Fraction(1, 10**6),  # the micro sign; the Greek letter below
    ("μ", "micro"): Fraction(1, 10**6),
    ("m", "milli"): Fraction(1, 10**3),
    ("k", "kilo"): Fraction(10**3),
    ("K", "kilo"): Fraction(10**3),
    ("M", "mega"): Fraction(10**6),
    ("G", "giga"): Fraction(10**9),
    ("T", "tera"): Fraction(10**12),
    ("Ki", "kibi"): Fraction(2**10),
    ("Mi", "mebi"): Fraction(2**20),
    ("Gi", "gibi"): Fraction(2**30),
}


@dataclass(frozen=True, slots=True)
class Kind:
    """What a quantity measures.

    Attributes:
        symbol: its SI unit.
        least: smallest plausible value other than zero, in that unit.
        most: largest plausible value, in that unit.
        example: how it is written in a device file.
    """

    symbol: str
    least: float
    most: float
    example: str


KINDS: dict[str, Kind] = {
    "bytes": Kind("B", 1, 2.0**50, "8 MiB"),
    "bandwidth": Kind("B/s", 1e3, 1e15, "17.064 GB/s"),
    "time": Kind("s", 1e-15, 1e4, "20 us"),
    "frequency": Kind("Hz", 1e3, 1e12, "1.5 GHz"),
    "data_rate": Kind("T/s", 1e3, 1e12, "4266 MT/s"),
    "energy": Kind("J", 1e-18, 1e6, "300 mJ"),
    "energy_per_bit": Kind("J/bit", 1e-18, 1e-3, "8 pJ/bit"),
    "power": Kind("W", 1e-6, 1e6, "10 W"),
}


@cache
def _spellings() -> dict[str, tuple[Fraction, tuple[int, ...]]]:
    """Return every way to write a unit, from `MB` to `megabytes`, with its size and dimension."""
    spellings = {}
    for (short_prefix, long_prefix), times in _PREFIXES.items():
        for (symbol, name), (size, dimension) in _UNITS.items():
            spellings[short_prefix + symbol] = (times * size, dimension)
            for prefix in (short_prefix, long_prefix):
                spellings[prefix + name] = spellings[prefix + name + "s"] = (times * size, dimension)
    return spellings


def _measure(unit: str) -> tuple[Fraction, tuple[int, ...]] | None:
    """Return size and dimension of a unit such as `GB/s`, None where it is unknown."""
    parts = [_spellings().get(part) for part in unit.split("/")]
    above, below = parts[0], parts[1] if len(parts) == 2 else (Fraction(1), (0, 0, 0, 0))
    if len(parts) > 2 or above is None or below is None:
        return None
    return above[0] / below[0], tuple(up - down for up, down in zip(above[1], below[1], strict=True))


def _factor(unit: str, kind: str) -> Fraction | None:
    """Return the factor from `unit` to the SI unit of `kind`, None where the unit means something else."""
    measure, legal = _measure(unit), _measure(KINDS[kind].symbol)
    if measure is None or legal is None or measure[1] != legal[1]:
        return None
    return measure[0] / legal[0]


def _parse(text: object, kind: str) -> Fraction:
    """Return the exact SI value of a quantity."""
    legal = KINDS[kind]
    legal_text = f"legal is a number and a unit, for example '{legal.example}'"
    if not isinstance(text, str):
        raise DeviceError(f"found {shown(text)} without a unit; {legal_text}; add the unit")
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise DeviceError(f"found {shown(text)}, which is not a quantity; {legal_text}; correct it")
    number, unit = match.groups()
    if not unit:
        raise DeviceError(f"found {shown(text)} without a unit; {legal_text}; add the unit")
    factor = _factor(unit, kind)
    if factor is None:
        raise DeviceError(f"found {shown(text)}, whose unit is not one of {kind}; {legal_text}; {_hint(unit)}")
    value = Fraction(number) * factor
    if value < 0:
        raise DeviceError(f"found {shown(text)}, which is negative; {legal_text}; write it without the sign")
    if value and not legal.least <= value <= legal.most:
        raise DeviceError(
            f"found {shown(text)}, which is out of range; legal is {legal.least:g} to {legal.most:g} {legal.symbol}, "
            f"for example '{legal.example}'; check the unit"
        )
    return value


def shown(value: object) -> str:
    """Return a value as it was written, shortened to at most 60 characters.

    Args:
        value: any value from a file.
    """
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a number of over 30 digits"
    return text if len(text) <= 60 else text[:57] + "..."


def _hint(unit: str) -> str:
    if unit.endswith(("b", "b/s", "bps")):
        return f"'{unit}' does not say bit or byte: write B for bytes or bit for bits"
    if _measure(unit) is not None:
        return f"'{unit}' measures something else"
    return "units are case-sensitive: check the spelling"


def parse_quantity(text: object, kind: str) -> float:
    """Return the SI value of a quantity such as `17.064 GB/s`.

    Args:
        text: number and unit; anything but a string is refused.
        kind: what it measures, a key of `KINDS`.

    Returns:
        Bytes, bytes per second, seconds, hertz, transfers per second, joules, joules per bit or watts.

    Raises:
        DeviceError: no unit, another dimension, negative, or outside the plausible range of the kind.

    >>> parse_quantity("17.064 GB/s", "bandwidth")
    17064000000.0
    """
    return float(_parse(text, kind))


def parse_bytes(text: object) -> int:
    """Return a size in whole bytes; a fraction of a byte is dropped.

    Args:
        text: number and unit, for example `25MB`.

    Raises:
        DeviceError: no unit, a unit that is no size (`25Mb`, `25 GB/s`), negative or out of range.

    >>> parse_bytes("25MB"), parse_bytes("1MiB")
    (25000000, 1048576)
    """
    return int(_parse(text, "bytes"))


def format_bytes(size_bytes: float) -> str:
    """Write a size with the decimal prefix that suits it: `format_bytes(25e6)` is `25.00 MB`.

    Args:
        size_bytes: the size, in bytes.

    >>> format_bytes(25_000_000)
    '25.00 MB'
    """
    return _prefixed(size_bytes, "B", (("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1)))


def format_bandwidth(bytes_per_s: float) -> str:
    """Write a bandwidth with the decimal prefix that suits it: `format_bandwidth(17.064e9)` is `17.06 GB/s`.

    Args:
        bytes_per_s: the bandwidth, in bytes per second.
    """
    return format_bytes(bytes_per_s) + "/s"


def format_seconds(time_s: float) -> str:
    """Write a time with the prefix that suits it, from seconds to nanoseconds.

    Args:
        time_s: the time, in seconds.

    >>> format_seconds(0.01586)
    '15.86 ms'
    """
    return _prefixed(time_s, "s", (("", 1), ("m", 1e-3), ("u", 1e-6), ("n", 1e-9)))


def format_joules(energy_j: float) -> str:
    """Write an energy with the prefix that suits it, from joules to picojoules: `format_joules(0.0123)` is `12.30 mJ`.

    Args:
        energy_j: the energy, in joules.
    """
    return _prefixed(energy_j, "J", (("", 1), ("m", 1e-3), ("u", 1e-6), ("n", 1e-9), ("p", 1e-12)))


def format_watts(power_w: float) -> str:
    """Write a power with the prefix that suits it, from kilowatts to microwatts: `format_watts(2.5)` is `2.50 W`.

    Args:
        power_w: the power, in watts.
    """
    return _prefixed(power_w, "W", (("k", 1e3), ("", 1), ("m", 1e-3), ("u", 1e-6)))


def _prefixed(value: float, unit: str, prefixes: tuple[tuple[str, float], ...]) -> str:
    prefix, factor = next((entry for entry in prefixes if abs(value) >= entry[1]), prefixes[-1])
    digits = 0 if unit == "B" and not prefix else 2
    return f"{value / factor:.{digits}f} {prefix}{unit}" if value else f"0 {unit}"
