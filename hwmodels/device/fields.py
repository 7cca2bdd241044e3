"""Field types of the device schema: strings with units in the file, SI numbers in the program."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

from .units import KINDS, parse_bytes, parse_quantity


class Frozen(BaseModel):
    """A frozen piece of a device description that accepts no field it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False)


def _quantity(kind: str, *, positive: bool = True) -> Any:
    """Return the metadata of a quantity: how it is read, written back and described to an editor."""
    legal = KINDS[kind]

    def read(value: object) -> float:
        number = parse_bytes(value) if kind == "bytes" else parse_quantity(value, kind)
        if positive and number == 0:
            raise ValueError(f"found {value!r}; legal is more than zero, for example '{legal.example}'; correct it")
        return number

    return (
        BeforeValidator(read),
        PlainSerializer(lambda value: f"{value!r} {legal.symbol}", when_used="json"),
        WithJsonSchema({"type": "string", "description": f"{kind} with its unit", "examples": [legal.example]}),
    )


_BYTES, _BYTES0 = _quantity("bytes"), _quantity("bytes", positive=False)
_BANDWIDTH, _FREQUENCY, _RATE = _quantity("bandwidth"), _quantity("frequency"), _quantity("data_rate")
_TIME, _TIME0 = _quantity("time"), _quantity("time", positive=False)
_ENERGY, _ENERGY0, _POWER = _quantity("energy"), _quantity("energy", positive=False), _quantity("power")
_BIT_ENERGY = _quantity("energy_per_bit", positive=False)

Bytes = Annotated[int, _BYTES[0], _BYTES[1], _BYTES[2]]
BytesOrZero = Annotated[int, _BYTES0[0], _BYTES0[1], _BYTES0[2]]
Bandwidth = Annotated[float, _BANDWIDTH[0], _BANDWIDTH[1], _BANDWIDTH[2]]
Frequency = Annotated[float, _FREQUENCY[0], _FREQUENCY[1], _FREQUENCY[2]]
DataRate = Annotated[float, _RATE[0], _RATE[1], _RATE[2]]
Seconds = Annotated[float, _TIME[0], _TIME[1], _TIME[2]]
SecondsOrZero = Annotated[float, _TIME0[0], _TIME0[1], _TIME0[2]]
Joules = Annotated[float, _ENERGY[0], _ENERGY[1], _ENERGY[2]]
JoulesOrZero = Annotated[float, _ENERGY0[0], _ENERGY0[1], _ENERGY0[2]]
JoulesPerBit = Annotated[float, _BIT_ENERGY[0], _BIT_ENERGY[1], _BIT_ENERGY[2]]
Watts = Annotated[float, _POWER[0], _POWER[1], _POWER[2]]


def _one_line(value: object) -> object:
    """Return text with every run of blanks and line breaks as one blank; what cannot be printed is refused."""
    if not isinstance(value, str):
        return value
    text = " ".join(value.split())
    if not text.isprintable():
        raise ValueError(f"found {value[:40]!r}; legal is printable text; remove what cannot be printed")
    return text


def _row_count(value: object) -> object:
    """Check a key of a table, which YAML gives as text: `01` and `1_0` are not numbers of rows."""
    if isinstance(value, str) and not re.fullmatch("[1-9][0-9]{0,6}", value):
        raise ValueError(f"found {value[:40]!r}; legal is a number of rows, for example 128; correct it")
    return value


Line = Annotated[str, BeforeValidator(_one_line)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
Count = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
Rows = Annotated[int, BeforeValidator(_row_count), Field(ge=1, le=1_000_000)]
# the least values keep every time that follows from them finite
Share = Annotated[float, Field(strict=True, ge=1e-9, le=1, allow_inf_nan=False)]
PerCycle = Annotated[float, Field(strict=True, ge=1e-6, le=1e9, allow_inf_nan=False)]
Cycles = Annotated[float, Field(strict=True, ge=0, le=1e6, allow_inf_nan=False)]
