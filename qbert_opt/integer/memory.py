"""Static memory for the values of a program: which bytes each one has while it is needed.

Values whose live ranges do not overlap share memory. The largest are placed first, each at the lowest place that is
free for its whole range (greedy by size), and an element-by-element operation writes over an operand of the same shape
and type that nothing reads again. There is one arena per element type, so that no memory is ever read as another type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from .narrow import stored_type
from .operations import (
    BATCH,
    TOKENS,
    Axis,
    Binary,
    Lookup,
    Mask,
    Operation,
    Requantize,
    Shift,
    SquareRoot,
    Value,
)
from .program import Program

IN_PLACE = (Binary, Lookup, Mask, Requantize, Shift, SquareRoot)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value is: `arena[start:]`, in elements, for an arena of numbers of so many bits."""

    bits: int
    start: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Places of all values that the encoder makes itself.

    Attributes:
        places: by value.
        elements: size of each arena, by bits of an element.
    """

    places: Mapping[str, Place]
    elements: Mapping[int, int]

    @property
    def total_bytes(self) -> int:
        """Bytes of all arenas."""
        return sum(bits // 8 * count for bits, count in self.elements.items())


@dataclass(slots=True)
class _Range:
    bits: int
    size: int
    first: int
    last: int
    start: int = -1


def bits_of(value: Value) -> int:
    """Return the bits in which a value is stored: 8, 16 or 32."""
    return 8 * stored_type(value)().itemsize


def elements_of(shape: tuple[Axis, ...], tokens: int) -> int:
    """Return how many numbers a value of one text has.

    Args:
        shape: of the value.
        tokens: of the text.
    """
    return prod(1 if axis == BATCH else tokens if axis == TOKENS else int(axis) for axis in shape)


def planned_memory(program: Program, tokens: int) -> Memory:
    """Place every value but inputs and outputs, which are the caller's.

    Args:
        program: whose operations run in order.
        tokens: of the longest text.
    """
    outputs = {output.value for output in program.outputs}
    last = {name: index for index, step in enumerate(program.operations) for name in step.operands}
    ranges: dict[str, _Range] = {}
    for index, step in enumerate(program.operations):
        value = step.output
        if value.name in outputs:
            continue
        end = last.get(value.name, index)
        reused = _overwritten(step, index, last, ranges, program.values)
        if reused is None:
            ranges[value.name] = _Range(bits_of(value), elements_of(value.shape, tokens), index, end)
        else:
            ranges[value.name] = ranges[reused]
            ranges[reused].last = end
    return _placed(ranges)


def _overwritten(
    step: Operation, index: int, last: Mapping[str, int], ranges: Mapping[str, _Range], values: Mapping[str, Value]
) -> str | None:
    if not isinstance(step, IN_PLACE):
        return None
    for name in step.operands:
        if name in ranges and last[name] == index:
            value = values[name]
            if value.shape == step.output.shape and bits_of(value) == bits_of(step.output):
                return name
    return None


def _placed(ranges: Mapping[str, _Range]) -> Memory:
    distinct: list[Any] = list({id(part): part for part in ranges.values()}.values())
    elements: dict[int, int] = {}
    for bits in (8, 16, 32):
        placed: list[_Range] = []
        for part in sorted((part for part in distinct if part.bits == bits), key=lambda part: (-part.size, part.first)):
            beside = sorted(
                (other for other in placed if other.first <= part.last and part.first <= other.last),
                key=lambda other: other.start,
            )
            part.start = 0
            for other in beside:
                if part.start + part.size <= other.start:
                    break
                part.start = max(part.start, other.start + other.size)
            placed.append(part)
        if placed:
            elements[bits] = max(part.start + part.size for part in placed)
    return Memory({name: Place(part.bits, part.start) for name, part in ranges.items()}, elements)
