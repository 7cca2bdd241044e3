"""Static memory for the values of a program: where each value is stored while it is needed.

Values whose live ranges do not overlap share memory. The largest are placed first, each at the lowest address that is
free for its whole live range (greedy by size), and an element-by-element operation overwrites an operand of the same
shape and type that nothing reads again. There is one arena per element type, so no memory is ever read as another type.

Attention runs in a loop over heads: a value that is computed and read only inside the loop takes memory for one head. A
value from outside that the loop reads is kept until the last iteration, and a value that is read after the loop has its
memory from the first iteration on.
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
    Rearrange,
    Relative,
    Requantize,
    Shift,
    SquareRoot,
    Value,
)
from .program import Program

IN_PLACE = (Binary, Lookup, Mask, Requantize, Shift, SquareRoot)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value is stored.

    Attributes:
        bits: width of the elements of its arena.
        start: its first element there.
    """

    bits: int
    start: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Places of all values except inputs and outputs, whose memory is the caller's.

    Attributes:
        places: place by name of the value.
        elements: number of elements of each arena, by bits of an element.
    """

    places: Mapping[str, Place]
    elements: Mapping[int, int]

    @property
    def total_bytes(self) -> int:
        """Bytes of all arenas."""
        return sum(bits // 8 * count for bits, count in self.elements.items())


@dataclass(frozen=True, slots=True)
class HeadLoop:
    """Operations that run head by head.

    Attributes:
        start: index of the first operation.
        stop: index after the last operation.
        heads: number of heads.
        local: names of the values that these operations compute and no other operation reads.
    """

    start: int
    stop: int
    heads: int
    local: frozenset[str]


def head_loops(program: Program) -> tuple[HeadLoop, ...]:
    """Return the maximal runs of consecutive operations whose results have an axis of heads, in order.

    Args:
        program: the program; its operations run in order.
    """
    steps, outputs = program.operations, {output.value for output in program.outputs}
    last = {name: index for index, step in enumerate(steps) for name in step.operands}
    loops, start = [], 0
    while start < len(steps):
        heads, stop = _heads(steps[start]), start + 1
        while heads is not None and stop < len(steps) and _heads(steps[stop]) == heads:
            stop += 1
        if heads is not None:
            made = [step.output.name for step in steps[start:stop]]
            local = frozenset(name for name in made if name not in outputs and last.get(name, stop) < stop)
            loops.append(HeadLoop(start, stop, heads, local))
        start = stop
    return tuple(loops)


def one_head(shape: tuple[Axis, ...]) -> tuple[Axis, ...]:
    """Return the shape of one head's part of a value.

    Args:
        shape: `[batch, heads, ...]`, or `[heads, tokens, tokens]` for relative positions.
    """
    return (*shape[:-3], 1, *shape[-2:])


def _heads(step: Operation) -> int | None:
    shape = step.output.shape
    if isinstance(step, Rearrange) or not (len(shape) == 4 or isinstance(step, Relative)):
        return None
    return int(shape[-3])


@dataclass(slots=True)
class _Range:
    bits: int
    size: int
    first: int
    last: int
    start: int = -1


def bits_of(value: Value) -> int:
    """Return the bits in which an element of a value is stored: 8, 16 or 32.

    Args:
        value: of a program.
    """
    return 8 * stored_type(value)().itemsize


def elements_of(shape: tuple[Axis, ...], tokens: int) -> int:
    """Return the number of elements of a value for one text.

    Args:
        shape: shape of the value.
        tokens: tokens of the text.
    """
    return prod(1 if axis == BATCH else tokens if axis == TOKENS else int(axis) for axis in shape)


def planned_memory(program: Program, tokens: int) -> Memory:
    """Place every value except inputs and outputs, whose memory is the caller's.

    Args:
        program: the program; its operations run in order.
        tokens: tokens of the longest text.
    """
    outputs = {output.value for output in program.outputs}
    last = {name: index for index, step in enumerate(program.operations) for name in step.operands}
    loops = {index: loop for loop in head_loops(program) for index in range(loop.start, loop.stop)}
    for index, loop in loops.items():  # values from outside are read in every iteration
        step = program.operations[index]
        outer = {*step.operands, step.output.name} - loop.local
        last |= {name: max(last.get(name, index), loop.stop - 1) for name in outer}
    ranges: dict[str, _Range] = {}
    for index, step in enumerate(program.operations):
        value, around = step.output, loops.get(index)
        if value.name in outputs:
            continue
        local = around is not None and value.name in around.local
        size = elements_of(one_head(value.shape) if local else value.shape, tokens)
        end = last.get(value.name, index)
        reused = _overwritten(step, index, last, ranges, program.values)
        if reused is None or ranges[reused].size != size:
            first = index if around is None or local else around.start
            ranges[value.name] = _Range(bits_of(value), size, first, end)
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
