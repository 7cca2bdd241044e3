"""What a whole graph costs: the latency of a schedule, bytes, energy and peak memory.

Three things make the schedule shorter than the sum of the separate latencies, never longer: the weights of the next
operation are prefetched while this one computes (as far as free scratchpad holds them), a fused operation has no
launch overhead of its own, and units run in parallel where the graph allows it. Bytes, DRAM bytes and dynamic energy
are plain sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import networkx as nx

from ..cost.operation import Operation, StoredWeight
from ..cost.operation_cost import OperationCost, operation_cost, operation_costs, unsupported
from ..device.errors import DeviceError
from ..device.provenance import figures
from ..device.units import format_seconds
from .cost_report import CostReport, PeakBound
from .limits import over_limits
from .list_scheduling import ScheduledOperation, schedule
from .memory import MemoryPlan, operations, plan_memory

if TYPE_CHECKING:
    from ..device.description import Device


def peak_activation_bytes(graph: nx.DiGraph, device: Device) -> int:
    """Return the bytes of the activation arena in the order with the smallest peak.

    Args:
        graph: operator graph.
        device: the hardware, which sets the width of activations.

    Raises:
        DeviceError: no legal graph.
    """
    return plan_memory(graph, device).peak_bytes


def scratchpad_room_bytes(graph: nx.DiGraph, device: Device) -> int:
    """Return the scratchpad bytes left for resident weights beside the activations; 0 without a scratchpad.

    It depends on the activations only, so it is a constant of the program that chooses weight formats.

    Args:
        graph: operator graph.
        device: the hardware.

    Raises:
        DeviceError: no legal graph.
    """
    return _room(device, peak_activation_bytes(graph, device))


def peak_bound_bytes(graph: nx.DiGraph, device: Device) -> PeakBound:
    """Return the separable bound on peak memory: a constant for activations and a sum over weights.

    Args:
        graph: operator graph.
        device: the hardware.

    Raises:
        DeviceError: an operation that no unit runs, or no legal graph.
    """
    weights = sum(cost.held_bytes for cost in operation_costs(operations(graph).values(), device).values())
    return PeakBound(peak_activation_bytes(graph, device), weights)


def simulate(graph: nx.DiGraph, device: Device, *, inferences_per_s: float | None = None) -> CostReport:
    """Simulate one inference of a graph on a device.

    Args:
        graph: operator graph, see `hwmodels.cost.operation`.
        device: the hardware.
        inferences_per_s: rate of inferences; back to back if None.

    Returns:
        Latency, bytes, energy and peak memory, with every operation in time.

    Raises:
        DeviceError: an operation that no unit runs, resident weights that do not fit, or no legal graph.
    """
    if inferences_per_s is not None and not 0 < inferences_per_s < 1e9:
        raise DeviceError(f"inferences_per_s: found {inferences_per_s}; legal is above 0 and below 1e9; correct it")
    ops = operations(graph)
    costs = operation_costs(ops.values(), device)
    plan = plan_memory(graph, device)
    room = _room(device, plan.peak_bytes)
    resident = sum(cost.scratchpad_bytes for cost in costs.values())
    if resident > room:
        raise DeviceError(
            f"{device.id}: found {resident} resident weight bytes; legal are {room} beside "
            f"{plan.peak_bytes} bytes of activations; stream some of them"
        )
    warm = _stays_cached(costs, device, plan)
    rows, memory = schedule(graph, costs, device, plan, free_bytes=room - resident, warm=warm)
    bound = PeakBound(plan.peak_bytes, sum(cost.held_bytes for cost in costs.values()))
    return _report(graph, device, rows, memory, bound, inferences_per_s, warm)


def _stays_cached(costs: dict[str, OperationCost], device: Device, memory: MemoryPlan) -> bool:
    """Whether a cache holds all weights and activations from one inference to the next.

    All or nothing: cyclic accesses to more data than a least-recently-used cache holds never hit.
    """
    path = device.path(device.units[0])
    last = path[-2] if len(path) > 1 else None
    used_bytes = sum(cost.dram_bytes for cost in costs.values()) + memory.peak_bytes
    return last is not None and last.kind == "cache" and used_bytes <= last.usable_bytes


def _room(device: Device, activation_bytes: int) -> int:
    pad = device.scratchpad
    return max(0, pad.usable_bytes - activation_bytes) if pad else 0


def _report(
    graph: nx.DiGraph,
    device: Device,
    rows: tuple[ScheduledOperation, ...],
    memory: MemoryPlan,
    bound: PeakBound,
    inferences_per_s: float | None,
    warm: bool,
) -> CostReport:
    costs = [row.cost for row in rows]
    latency_bound_s = math.fsum(cost.latency_bound_s for cost in costs)
    latency_s = min(max(row.finish_s for row in rows), latency_bound_s)  # a running sum rounds unlike fsum
    rate = inferences_per_s or 1 / latency_s
    dram_bytes = sum(cost.dram_bytes for cost in costs)
    dynamic_j = math.fsum(cost.dynamic_energy_j for cost in costs)
    low, high = device.latency_interval
    known = figures(device)
    gain_s = math.fsum(_gains_s({row.cost.name: row.cost for row in rows}, graph, device))
    report = CostReport(
        device=device.id,
        operations=rows,
        latency_s=latency_s,
        latency_bound_s=latency_bound_s,
        critical_path_s=_critical_path_s(graph, rows),
        peak_memory_bytes=bound.weight_bytes + memory.peak_bytes,
        peak_bound_bytes=bound.total_bytes,
        peak_activation_bytes=memory.peak_bytes,
        weight_bytes=sum(cost.weight_bytes for cost in costs),
        held_bytes=bound.weight_bytes,
        dram_bytes=dram_bytes,
        dram_bandwidth_bytes_per_s=dram_bytes * rate,
        inferences_per_s=rate,
        scratchpad_bytes=sum(cost.scratchpad_bytes for cost in costs),
        scratchpad_room_bytes=_room(device, bound.activation_bytes),
        dynamic_energy_j=dynamic_j,
        energy_j=dynamic_j + device.power.static_w * latency_s,
        average_power_w=device.power.static_w + dynamic_j * rate,
        unpack_s=math.fsum(cost.unpack_s for cost in costs),
        dram_saved_s=math.fsum(_saved_s(row.cost, graph.nodes[row.cost.name]["op"], device) for row in rows),
        gain_over_8_bits_s=gain_s,
        bops=sum(cost.bops for cost in costs),
        bound_shares=_shares(costs),
        confidence=device.confidence,
        latency_interval_s=(low * latency_s, high * latency_s),
        sourced_figures=sum(figure.is_sourced for figure in known),
        all_figures=len(known),
        over_limits=(),
        notes=_notes(device, memory, gain_s),
        memory=memory,
        cached=warm,
    )
    return replace(report, over_limits=over_limits(report, device))


def _critical_path_s(graph: nx.DiGraph, rows: tuple[ScheduledOperation, ...]) -> float:
    """Return the longest chain of dependent operations, each as long as it was scheduled."""
    reached: dict[str, float] = {}
    for row in rows:  # the order of execution is topological
        before = max((reached[name] for name in graph.predecessors(row.cost.name)), default=0.0)
        reached[row.cost.name] = before + (row.finish_s - row.start_s)
    return max(reached.values())


def _shares(costs: list[OperationCost]) -> dict[str, float]:
    whole = math.fsum(cost.latency_bound_s for cost in costs)
    kinds = dict.fromkeys(cost.bound for cost in costs)
    return {kind: math.fsum(c.latency_bound_s for c in costs if c.bound == kind) / whole for kind in kinds}


def _saved_s(cost: OperationCost, op: Operation, device: Device) -> float:
    """Return the DRAM time saved against streaming 8-bit codes; none where the engine unpacks weights at load."""
    wide = _at_8_bits(op)
    if op.weight is None or wide is None or cost.held_bytes != cost.weight_bytes:
        return 0.0
    far = device.far_memory
    own_bytes = 0 if op.weight.resident else op.weight.bytes
    return op.repeats * (far.transfer_s(op.weights, 0) - far.transfer_s(own_bytes, 0))


def _gains_s(costs: dict[str, OperationCost], graph: nx.DiGraph, device: Device) -> Iterator[float]:
    """Yield the latency bound of each operation with streamed 8-bit codes minus its own."""
    known: dict[Operation, float | None] = {}  # of operations that differ in name only
    for name, cost in costs.items():
        wide = _at_8_bits(graph.nodes[name]["op"])
        if wide is None:
            continue
        alike = replace(wide, name="")
        if alike not in known:
            known[alike] = None if unsupported(wide, device) else operation_cost(wide, device).latency_bound_s
        bound_s = known[alike]
        if bound_s is not None:
            yield bound_s - cost.latency_bound_s


def _at_8_bits(op: Operation) -> Operation | None:
    """Return a product of narrow codes with 8-bit codes in one group instead, None for other operations."""
    weight = op.weight
    if weight is None or op.kind != "gemm" or weight.axis == "none" or weight.bits >= 8:
        return None
    return replace(op, weight=StoredWeight(8, "rows", 1, op.n, op.weights, 0))


def _notes(device: Device, memory: MemoryPlan, gain_s: float) -> tuple[str, ...]:
    notes = []
    if gain_s < 0:
        notes.append(f"fewer bits are slower here: the same plan at 8 bits takes {format_seconds(-gain_s)} less")
    path = device.path(device.units[0])
    on_chip = path[-2].usable_bytes if len(path) > 1 else 0
    if memory.peak_bytes > on_chip:
        notes.append(
            f"{memory.peak_bytes} bytes of live activations exceed the {on_chip} on chip; "
            "the DRAM traffic of tensors that are spilled between operations is not counted"
        )
    return tuple(notes)
