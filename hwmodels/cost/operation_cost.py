"""The latency model of one operation: what it costs on a device, independent of its neighbours.

    latency_bound = launch + max(compute + unpack, near memory, DRAM)      with double buffering
    latency_bound = launch + max(compute + unpack, near memory) + DRAM     without

This is a roofline (Williams et al. 2009) per memory boundary plus launch overhead and the unpacking of stored codes,
as in Arm's Vela and in LLMCompass (Zhang et al. 2024). Each term depends on the operation and the device only, so a
linear program can sum it over operations. What operations gain from each other (prefetch, fusion, units that run in
parallel) is left to `simulate` and only ever lowers the sum.

A function in integers takes its elementary operations one after the other, and its tables are loaded and held like
weights. In floating point on a device whose activations are integers, every element read is converted first and every
element made afterwards, each at the rate of pointwise work; what the other unit made crosses the shared memories.

What crosses which memory boundary is in `traffic`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..device.efficiency import efficiency_at
from ..device.errors import DeviceError
from .operation import Operation
from .placement import Placement, is_measured, place
from .traffic import crossings, held_bytes, input_bits

if TYPE_CHECKING:
    from ..device.description import Device
    from ..device.parts import Unit


@dataclass(frozen=True, slots=True)
class OperationCost:
    """What one operation costs on the unit that runs it.

    Attributes:
        name: the operation.
        unit: the compute unit.
        format: the stored format of its weights, or the type it computes in where it has none.
        compute_s: arithmetic, including padding to the unit's tile.
        unpack_s: converting stored codes to the compute type.
        near_s: the slowest transfer between on-chip memories.
        dram_s: transfers from and to the farthest memory.
        launch_s: launch overhead.
        latency_bound_s: latency if nothing overlaps with its neighbours; an upper bound.
        latency_floor_s: latency on the device's first unit with its weights prefetched and, where operations of its
            kind can be fused, without launch; 0 on other units. One unit runs one operation at a time, so the sum over
            all operations is a lower bound of every schedule.
        dram_bytes: bytes from and to the farthest memory.
        weight_bytes: stored bytes of its weights, resident or streamed; counted once, however often it repeats.
        held_bytes: bytes of its weights in memory while the engine runs, the stored bytes unless the engine unpacks
            weights when it loads them, of the tables of a function in integers, and of the state that it appends to.
        dynamic_energy_j: arithmetic, unpacking and transfers; without static power.
        scratchpad_bytes: bytes of its weights that are resident in the scratchpad.
        macs: multiply-accumulates without padding.
        bops: macs x weight bits x activation bits (Baskin et al. 2021).
        bound: the term that dominates: "compute", "unpack", "near memory", "dram" or "launch".
        weight_dram_s: the part of `dram_s` that loads weights, which a prefetch can hide.
    """

    name: str
    unit: str
    format: str
    compute_s: float
    unpack_s: float
    near_s: float
    dram_s: float
    launch_s: float
    latency_bound_s: float
    latency_floor_s: float
    dram_bytes: int
    weight_bytes: int
    held_bytes: int
    dynamic_energy_j: float
    scratchpad_bytes: int
    macs: int
    bops: int
    bound: str
    weight_dram_s: float

    def __repr__(self) -> str:
        """Return one line."""
        return (
            f"OperationCost({self.name!r}, unit={self.unit!r}, format={self.format!r}, "
            f"latency_bound_s={self.latency_bound_s:.4g}, dram_bytes={self.dram_bytes}, bound={self.bound!r})"
        )


def unsupported(op: Operation, device: Device) -> str | None:
    """Return why the device cannot run the operation.

    Args:
        op: the operation with its stored weight.
        device: the hardware.

    Returns:
        The rule that forbids it, in words; None if some unit runs it.
    """
    placement = place(op, device)
    return placement if isinstance(placement, str) else None


def operation_cost(op: Operation, device: Device) -> OperationCost:
    """Return what one operation costs on the first unit that can run it.

    Args:
        op: the operation with its stored weight.
        device: the hardware.

    Returns:
        Seconds, bytes and joules of all its repeats.

    Raises:
        DeviceError: no unit of the device runs it.
    """
    placement = place(op, device)
    if isinstance(placement, str):
        raise DeviceError(f"{device.id}: {op.name}: {placement}")
    crossed = list(crossings(op, placement, device))
    far = crossed[-1]
    compute_s, busy_energy_j, macs = _arithmetic(op, placement, device)
    unpack_s, unpack_energy_j = _unpack(op, placement, crossed[0].passes)
    near_s = max((c.memory.transfer_s(c.read_bytes, c.written_bytes) for c in crossed[:-1]), default=0.0)
    dram_s = far.memory.transfer_s(far.read_bytes, far.written_bytes)
    unit = placement.unit
    launch_s = unit.launch_s if placement.rate.launch_s is None else placement.rate.launch_s
    busy_s = max(compute_s + unpack_s, near_s)
    body_s = max(busy_s, dram_s) if unit.double_buffer else busy_s + dram_s
    moved_j = sum((c.read_bytes + c.written_bytes) * 8 * c.memory.energy_j_per_bit for c in crossed)
    times = op.repeats
    held = held_bytes(op, placement)
    weight_dram_s = min(dram_s, far.memory.transfer_s(far.weight_bytes, 0))
    stays_s = dram_s - weight_dram_s
    fuses = any(op.kind == second for _, second in unit.fuses)
    floor_s = (max(busy_s, stays_s) if unit.double_buffer else busy_s + stays_s) + (0.0 if fuses else launch_s)
    return OperationCost(
        name=op.name,
        unit=unit.id,
        format=placement.label,
        compute_s=times * compute_s,
        unpack_s=times * unpack_s,
        near_s=times * near_s,
        dram_s=times * dram_s,
        launch_s=times * launch_s,
        latency_bound_s=times * (launch_s + body_s),
        latency_floor_s=times * floor_s if unit.id == device.units[0].id else 0.0,
        dram_bytes=times * (far.read_bytes + far.written_bytes),
        weight_bytes=op.stored_bytes,
        held_bytes=(held if op.holds_weight else 0) + op.table_bytes,
        dynamic_energy_j=times * (busy_energy_j + unpack_energy_j + moved_j),
        scratchpad_bytes=held if op.weight and op.holds_weight and op.weight.resident else 0,
        macs=times * macs,
        bops=times * macs * (op.weight.run_bits if op.weight else device.activation_bits) * input_bits(op, device),
        bound=_bound(launch_s, compute_s, unpack_s, near_s, dram_s),
        weight_dram_s=times * weight_dram_s,
    )


def operation_costs(ops: Iterable[Operation], device: Device) -> dict[str, OperationCost]:
    """Return what each of several operations costs, by name; those that differ in name only are computed once.

    Args:
        ops: the operations of a graph.
        device: the hardware.

    Raises:
        DeviceError: no unit of the device runs one of them.
    """
    known: dict[Operation, OperationCost] = {}
    costs = {}
    for op in ops:
        alike = replace(op, name="")
        if alike not in known:
            known[alike] = operation_cost(op, device)
        costs[op.name] = replace(known[alike], name=op.name)
    return costs


def _bound(launch_s: float, compute_s: float, unpack_s: float, near_s: float, dram_s: float) -> str:
    work = "unpack" if unpack_s > compute_s else "compute"
    terms = {work: compute_s + unpack_s, "near memory": near_s, "dram": dram_s, "launch": launch_s}
    return max(terms, key=lambda name: terms[name])


def _arithmetic(op: Operation, placement: Placement, device: Device) -> tuple[float, float, int]:
    """Return compute seconds, joules and multiply-accumulates; a product is padded to the unit's tile."""
    unit, rate = placement.unit, placement.rate
    per_s = rate.per_cycle * unit.cores * unit.clock_hz * _efficiency(op, placement)
    if op.kind not in ("gemm", "matmul"):
        elements = op.batch * op.m * op.n
        converted, convert_s = _conversions(op, placement, device)
        return elements / per_s + convert_s, (elements + converted) * unit.energy_element_j, 0
    m, n, k = (math.ceil(size / tile) * tile for size, tile in zip((op.m, op.n, op.k), rate.tile, strict=True))
    padded = op.batch * m * n * k
    energy_j = unit.energy_mac_j[placement.type] if placement.type else 0.0
    extra = 0 if is_measured(placement.format) else op.extra_elements
    compute_s = padded / per_s + extra * _pointwise_s(unit)
    return compute_s, padded * energy_j + extra * unit.energy_element_j, op.batch * op.m * op.n * op.k


def _pointwise_s(unit: Unit) -> float:
    """Return the seconds of one element of pointwise work; 0 where the unit states no rate of it."""
    rate = next((rate for rate in unit.rates if rate.op == "elementwise"), None)
    return 0.0 if rate is None else 1 / (rate.per_cycle * unit.cores * unit.clock_hz * rate.efficiency)


def _conversions(op: Operation, placement: Placement, device: Device) -> tuple[int, float]:
    """Return elements converted between integer activations and floating point, and the seconds that this takes."""
    if op.arithmetic is None or not op.is_pointwise or device.activation_bits == 32:
        return 0, 0.0
    converted = op.input_elements + op.output_elements
    return converted, converted * _pointwise_s(placement.unit)


def _efficiency(op: Operation, placement: Placement) -> float:
    """Return the share of the peak rate; figures measured for the stored format take precedence over the unit's."""
    form, rate = placement.format, placement.rate
    for table in (form if op.kind == "gemm" else None, rate):
        if table is None:
            continue
        if table.efficiency_by_shape is not None:
            return table.efficiency_by_shape.at(op.m, op.k, op.n)
        if table.efficiency_by_rows:
            return efficiency_at(op.m, table.efficiency_by_rows, rate.efficiency)
    return rate.efficiency


def _unpack(op: Operation, placement: Placement, passes: int) -> tuple[float, float]:
    """Return seconds and joules of unpacking; a code costs the energy of one pointwise element."""
    form, weight, unit = placement.format, op.weight, placement.unit
    if form is None or weight is None or form.how == "native":
        return 0.0, 0.0
    share = min(1.0, op.m / op.k) if op.kind == "gather" else float(passes)
    cycles = form.unpack_cycles_per_weight * op.weights + form.unpack_cycles_per_group * weight.num_groups
    return share * cycles / (unit.cores * unit.clock_hz), share * op.weights * unit.energy_element_j
