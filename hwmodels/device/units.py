"""Quantities with compulsory units: strings outside, SI numbers inside.

`MB` is 10**6 bytes and `MiB` is 2**20, as IEC 80000-13 has it. A bare number is refused, because nobody can
tell whether its author meant bits, bytes or mebibytes. Bandwidths are in bytes, so `Gb/s` is refused too:
write `Gbit/s`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from .errors import DeviceError

_QUANTITY = re.compile(r"\s*([+-]?(?:\d{1,24}(?:\.\d{0,24})?|\.\d{1,24})(?:[eE][+-]?\d{1,2})?)\s*([A-Za-zµ/]{0,16})\s*")

# Our own small registry: pint's default one costs 0.2 s to build and reads `b` as bit and `B` as byte.
_DEFINITIONS = (
    "byte = [data] = B",
    "bit = byte / 8 = bit",
    "second = [time] = s",
    "hertz = 1 / second = Hz",
    "transfer = [transfer] = T",
    "joule = [energy] = J",
    "watt = joule / second = W",
    "pico- = 1e-12 = p-",
    "nano- = 1e-9 = n-",
    "micro- = 1e-6 = u- = µ-",
    "milli- = 1e-3 = m-",
    "kilo- = 1e3 = k- = K-",
    "mega- = 1e6 = M-",
    "giga- = 1e9 = G-",
    "tera- = 1e12 = T-",
    "kibi- = 2**10 = Ki-",
    "mebi- = 2**20 = Mi-",
    "gibi- = 2**30 = Gi-",
)


@dataclass(frozen=True, slots=True)
class Kind:
    """What a quantity measures: its SI unit, the plausible range of a non-zero value, and an example."""

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


@lru_cache(maxsize=1)
def _registry() -> Any:
    import pint  # a quarter of a second that only a reader of quantities should pay

    registry: Any = pint.UnitRegistry(None)
    for definition in _DEFINITIONS:
        registry.define(definition)
    return registry


@lru_cache(maxsize=256)
def _factor(unit: str, kind: str) -> Fraction | None:
    """Factor from `unit` to the SI unit of `kind`, or None where the unit means something else."""
    import pint

    registry = _registry()
    try:
        value = registry.Quantity(1, registry.parse_units(unit)).to(KINDS[kind].symbol).magnitude
    except (pint.errors.PintError, pint.errors.DefinitionSyntaxError, ValueError):
        return None
    # Every factor here is a product of powers of two and ten, so the shortest decimal is the exact one.
    return Fraction(repr(value)) if isinstance(value, float) else Fraction(value)


def _parse(text: object, kind: str) -> Fraction:
    legal = KINDS[kind]
    wanted = f"legal is a number and a unit, for example '{legal.example}'"
    if not isinstance(text, str):
        raise DeviceError(f"found {_shown(text)} without a unit; {wanted}; add the unit")
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise DeviceError(f"found {_shown(text)}, which is no quantity; {wanted}; correct it")
    number, unit = match.groups()
    if not unit:
        raise DeviceError(f"found {_shown(text)} without a unit; {wanted}; add the unit")
    factor = _factor(unit, kind)
    if factor is None:
        raise DeviceError(f"found {_shown(text)}, whose unit is not one of {kind}; {wanted}; {_hint(unit)}")
    value = Fraction(number) * factor
    if value < 0:
        raise DeviceError(f"found {_shown(text)}, which is negative; {wanted}; write it without the sign")
    if value and not legal.least <= value <= legal.most:
        raise DeviceError(
            f"found {_shown(text)}, which is absurd; legal is {legal.least:g} to {legal.most:g} {legal.symbol}, "
            f"for example '{legal.example}'; check the unit"
        )
    return value


def _shown(value: object) -> str:
    """Show a value as it was written, without letting a huge one fill the screen."""
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a number of over 30 digits"
    return text if len(text) <= 60 else text[:57] + "..."


def _hint(unit: str) -> str:
    if unit.endswith(("b", "b/s", "bps")):
        return f"'{unit}' does not say bit or byte: write B for bytes or bit for bits"
    return "units are case-sensitive: check the spelling"


def parse_quantity(text: object, kind: str) -> float:
    """Return the SI value of a quantity such as `17.064 GB/s`.

    Args:
        text: number and unit; anything but a string is refused.
        kind: what it measures, one of `KINDS`.

    Raises:
        DeviceError: no unit, another dimension, negative, or outside the plausible range of the kind.

    >>> parse_quantity("17.064 GB/s", "bandwidth")
    17064000000.0
    """
    return float(_parse(text, kind))


def parse_bytes(text: object) -> int:
    """Return a size in whole bytes; a broken byte is dropped.

    Raises:
        DeviceError: no unit, a unit that is no size (`25Mb`, `25 GB/s`), negative or absurd.

    >>> parse_bytes("25MB"), parse_bytes("1MiB")
    (25000000, 1048576)
    """
    return int(_parse(text, "bytes"))


def format_bytes(size_bytes: float) -> str:
    """Write a size with the decimal prefix that suits it: `format_bytes(25e6)` is `25.00 MB`.

    >>> format_bytes(25_000_000)
    '25.00 MB'
    """
    return _prefixed(size_bytes, "B", (("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1)))


def format_bandwidth(bytes_per_s: float) -> str:
    """Write a bandwidth: `format_bandwidth(17.064e9)` is `17.06 GB/s`."""
    return format_bytes(bytes_per_s) + "/s"


def format_seconds(time_s: float) -> str:
    """Write a time with the prefix that suits it.

    >>> format_seconds(0.01586)
    '15.86 ms'
    """
    return _prefixed(time_s, "s", (("", 1), ("m", 1e-3), ("u", 1e-6), ("n", 1e-9)))


def format_joules(energy_j: float) -> str:
    """Write an energy: `format_joules(0.0123)` is `12.30 mJ`."""
    return _prefixed(energy_j, "J", (("", 1), ("m", 1e-3), ("u", 1e-6), ("n", 1e-9), ("p", 1e-12)))


def format_watts(power_w: float) -> str:
    """Write a power: `format_watts(2.5)` is `2.50 W`."""
    return _prefixed(power_w, "W", (("k", 1e3), ("", 1), ("m", 1e-3), ("u", 1e-6)))


def _prefixed(value: float, unit: str, prefixes: tuple[tuple[str, float], ...]) -> str:
    prefix, factor = next((entry for entry in prefixes if abs(value) >= entry[1]), prefixes[-1])
    digits = 0 if unit == "B" and not prefix else 2
    return f"{value / factor:.{digits}f} {prefix}{unit}" if value else f"0 {unit}"
