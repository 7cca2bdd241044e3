"""Which figures of a device have a source, and which are assumed.

A figure's path joins field names, and ids in place of list positions: `memories.ddr.read_bw`,
`units.mma.rates.gemm.int8.per_cycle`. A pattern of `provenance` may use `*`; the longest pattern that
matches wins. Limits, and the bits and groups of a format, are specifications, not figures: they are not counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import translate

from pydantic import BaseModel

from .description import Device
from .efficiency import EfficiencyGrid
from .parts import Provenance, Rate

_COUNTED = ("memories", "units", "formats", "power", "power_modes", "reserved", "interval")
_NAMING = {"weight_bits", "row_groups", "group_sizes", "table_entries", "loaded_bits"}


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a device file and its source.

    Attributes:
        path: where it stands in the file.
        value: in SI units.
        provenance: its source; None if not stated.
    """

    path: str
    value: float
    provenance: Provenance | None

    @property
    def is_sourced(self) -> bool:
        """Whether the figure has a source that can be checked."""
        return self.provenance is not None and self.provenance.is_source


def figures(device: Device) -> tuple[Figure, ...]:
    """Return every number that the device's file states, with its source, in the order of the schema.

    Args:
        device: a device as loaded.
    """
    longest_first = sorted(device.provenance.items(), key=lambda item: -len(item[0].replace("*", "")))
    patterns = [(re.compile(translate(pattern)).match, entry) for pattern, entry in longest_first]

    def source(path: str) -> Provenance | None:
        return next((entry for matches, entry in patterns if matches(path)), None)

    return tuple(
        Figure(path, value, source(path))
        for name in _COUNTED
        if name in device.model_fields_set
        for path, value in _numbers(getattr(device, name), name)
    )


def _numbers(value: object, path: str) -> Iterator[tuple[str, float]]:
    """Yield path and value of each number under `value` that the file states; defaults do not count.

    A grid was measured as a whole and counts as one figure, its highest efficiency.
    """
    if isinstance(value, EfficiencyGrid):
        yield path, max(value.efficiency)
    elif isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            if name in value.model_fields_set and name not in _NAMING:
                yield from _numbers(getattr(value, name), f"{path}.{field.alias or name}")
    elif isinstance(value, tuple):
        for position, item in enumerate(value):
            yield from _numbers(item, f"{path}.{_key(item, position)}")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _numbers(item, f"{path}.{key}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, float(value)


def _key(item: object, position: int) -> str:
    if isinstance(item, Rate):
        return f"{item.op}.{item.type}" if item.type else item.op
    return str(getattr(item, "id", None) or getattr(item, "memory", None) or position)
