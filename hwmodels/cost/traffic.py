"""What crosses each memory boundary while one operation runs: stored weights, activations read, and results.

Activations stay on chip if an operation's inputs and outputs fit in the farthest on-chip memory of its unit and the
other units that an encoder needs can reach that memory; otherwise they cross the DRAM boundary. Operands of a product
that do not fit together pass several times (`tiling`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .operation import Operation
from .placement import Placement
from .tiling import Passes, best_passes

if TYPE_CHECKING:
    from ..device.description import Device
    from ..device.parts import Memory

TYPE_BYTES = {"int4": 0.5, "int8": 1, "fp8": 1, "int16": 2, "fp16": 2, "bf16": 2, "fp32": 4}


@dataclass(frozen=True, slots=True)
class Crossing:
    """Bytes that cross the boundary below one memory.

    Attributes:
        memory: the memory on the far side of the boundary.
        read_bytes: bytes read from it.
        written_bytes: bytes written to it.
        weight_bytes: those of the read ones that are weights.
        passes: how many times the weights cross.
    """

    memory: Memory
    read_bytes: int
    written_bytes: int
    weight_bytes: int
    passes: int


def crossings(op: Operation, placement: Placement, device: Device) -> Iterator[Crossing]:
    """Yield what crosses each boundary of the unit's path, nearest first; the last one is the DRAM boundary.

    Args:
        op: the operation with its stored weight.
        placement: the unit that runs it, and its memories.
        device: the hardware.
    """
    path = placement.path
    act = device.activation_bits // 8
    inputs, outputs = op.input_elements * _read_bytes(op, device), op.output_elements * act
    home = _home(op, path, device)
    for level in range(1, len(path)):
        near, far = path[level - 1], path[level]
        is_last = level == len(path) - 1
        passes = _passes(op, placement, _read_bytes(op, device), near.usable_bytes)
        loaded = _read_weight_bytes(op, placement) * passes.weight if level <= home else 0
        on_chip = is_last and inputs + outputs <= near.usable_bytes and device.hands_over_in(near)
        moved = 0 if on_chip else _activation_bytes(op, passes, _read_bytes(op, device))
        kept = appended_bytes(op) if is_last else 0
        yield Crossing(far, loaded + moved, (0 if on_chip else outputs) + kept, loaded, passes.weight)
    if len(path) == 1:
        loaded = _read_weight_bytes(op, placement)
        yield Crossing(path[0], loaded + inputs, outputs + appended_bytes(op), loaded, 1)


def _home(op: Operation, path: tuple[Memory, ...], device: Device) -> int:
    """Level of the memory that the weights come from: the device's scratchpad if resident, else the last."""
    if op.weight is None or not op.weight.resident or device.scratchpad is None:
        return len(path) - 1
    return path.index(device.scratchpad)


def input_bits(op: Operation, device: Device) -> int:
    """Return the width of an input element: the operation's own, or the device's.

    Args:
        op: the operation.
        device: the hardware.
    """
    return device.activation_bits if op.input_bits is None else op.input_bits


def _read_bytes(op: Operation, device: Device) -> int:
    """Bytes of an input element: what the device keeps, or the wider integers that the operation reads."""
    return max(device.activation_bits, input_bits(op, device)) // 8


def _passes(op: Operation, placement: Placement, act: int, capacity_bytes: int) -> Passes:
    if op.kind not in ("gemm", "matmul"):
        return Passes(1, 1)
    return best_passes(
        op.m,
        op.k,
        op.n,
        activation_bytes=act,
        weight_bytes=TYPE_BYTES[placement.type] if op.kind == "gemm" and placement.type else act,
        capacity_bytes=capacity_bytes,
    )


def _activation_bytes(op: Operation, passes: Passes, act: int) -> int:
    """Return activation bytes read: each operand of a product as often as it passes."""
    if op.kind == "gemm":
        return op.batch * op.m * op.k * act * passes.activation
    if op.kind == "matmul" and op.weight is not None:
        return op.batch * op.m * op.k * act * passes.activation
    if op.kind == "matmul":
        return op.batch * (op.m * op.k * passes.activation + op.k * op.n * passes.weight) * act
    return op.input_elements * act


def held_bytes(op: Operation, placement: Placement) -> int:
    """Return the bytes of the weights in memory while the engine runs; 0 without weights.

    Args:
        op: the operation with its stored weight.
        placement: whose format may say that weights are unpacked when they are loaded.
    """
    if op.weight is None:
        return 0
    if op.weight.loaded_bits is not None:
        return math.ceil(op.weights * op.weight.loaded_bits / 8) + op.weight.metadata_bytes
    if placement.format is None or placement.format.loaded_bits is None:
        return op.weight.bytes
    return math.ceil(op.weights * placement.format.loaded_bits / 8)


def appended_bytes(op: Operation) -> int:
    """Return the bytes that an operation writes to the farthest memory for later inferences: m of a state's k rows.

    Args:
        op: the operation; all kinds but "append" write none.
    """
    return math.ceil(op.weight.bytes * op.m / op.k) if op.kind == "append" and op.weight is not None else 0


def _read_weight_bytes(op: Operation, placement: Placement) -> int:
    """Return bytes that one pass reads: the whole matrix and tables, or the m rows that a gather takes of k."""
    if op.kind == "append":
        return 0
    held = held_bytes(op, placement)
    return math.ceil(held * op.m / op.k) if op.kind == "gather" else held + op.table_bytes
