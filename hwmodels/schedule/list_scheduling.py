"""When each operation runs: list scheduling over the units, with prefetch and fusion.

The weights of an operation may be prefetched while DRAM is idle under the preceding operations of the same unit, as
far as free scratchpad holds them (the double-buffering slack of Vela). An operation may start before an earlier one
has finished if it runs on another unit and memory allows it; DRAM serves one of them at a time. No operation finishes
later than it would after all earlier ones without overlap, so the sum of the separate latencies is an upper bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import networkx as nx

from ..cost.operation_cost import OperationCost
from .memory import LiveTensor, MemoryPlan, activation_sizes, lay_out

if TYPE_CHECKING:
    from ..device.description import Device
    from ..device.parts import Unit


@dataclass(frozen=True, slots=True)
class ScheduledOperation:
    """What an operation costs and when it runs.

    Attributes:
        cost: its cost without its neighbours.
        start_s: when it starts, in seconds from the start of the inference.
        finish_s: when its result is complete.
        prefetched_s: DRAM time hidden by a prefetch or a warm cache.
        fused: whether it shares its predecessor's launch.
    """

    cost: OperationCost
    start_s: float
    finish_s: float
    prefetched_s: float
    fused: bool


@dataclass(slots=True)
class _Lane:
    """The timeline of a unit: when it is free, and how long DRAM has been idle since it last streamed weights."""

    unit: Unit
    free_s: float = 0.0
    idle_dram_s: float = 0.0
    last: str = ""


def schedule(
    graph: nx.DiGraph,
    costs: dict[str, OperationCost],
    device: Device,
    memory: MemoryPlan,
    *,
    free_bytes: int,
    warm: bool = False,
) -> tuple[tuple[ScheduledOperation, ...], MemoryPlan]:
    """Schedule the operations of a graph.

    Args:
        graph: operator graph.
        costs: cost of every operation without its neighbours.
        device: the hardware.
        memory: order of operations and its layout; operations start in this order.
        free_bytes: scratchpad bytes into which weights may be prefetched.
        warm: whether a cache still holds all weights from the previous inference.

    Returns:
        The scheduled operations and the layout of activations that goes with them.
    """
    if len({cost.unit for cost in costs.values()}) == 1:
        return _Scheduler(graph, costs, device, memory, free_bytes, warm).run(overlap=False), memory
    rows = _Scheduler(graph, costs, device, memory, free_bytes, warm).run(overlap=True)
    tensors = _lay_out_in_time(graph, rows, activation_sizes(graph, device))
    extent = max(tensor.offset_bytes + tensor.size_bytes for tensor in tensors)
    if extent <= memory.peak_bytes:
        return rows, replace(memory, tensors=tensors, peak_bytes=extent)
    # Overlapping would need a larger arena than one operation after the other.
    return _Scheduler(graph, costs, device, memory, free_bytes, warm).run(overlap=False), memory


def launches_that_stay_s(graph: nx.DiGraph, costs: dict[str, OperationCost], device: Device) -> float:
    """Return the launch overhead that `latency_floor_s` leaves out although no schedule of this graph can fuse it.

    Args:
        graph: operator graph.
        costs: cost of every operation.
        device: the hardware.

    Returns:
        Seconds on the device's first unit.
    """
    unit = device.units[0]
    kinds = {second for _, second in unit.fuses}
    return math.fsum(
        cost.launch_s
        for name, cost in costs.items()
        if cost.unit == unit.id and graph.nodes[name]["op"].kind in kinds and not can_fuse(graph, name, unit)
    )


def can_fuse(graph: nx.DiGraph, name: str, unit: Unit) -> bool:
    """Whether an operation may share the launch of its only input; it must be the only reader of that input.

    Args:
        graph: operator graph.
        name: the operation.
        unit: the unit that runs both.
    """
    before = list(graph.predecessors(name))
    if len(before) != 1 or graph.out_degree(before[0]) != 1:
        return False
    kinds = graph.nodes[before[0]]["op"].kind, graph.nodes[name]["op"].kind
    return kinds in unit.fuses


class _Scheduler:
    """The state of one walk over the order."""

    def __init__(
        self,
        graph: nx.DiGraph,
        costs: dict[str, OperationCost],
        device: Device,
        memory: MemoryPlan,
        free_bytes: int,
        warm: bool,
    ) -> None:
        self.graph, self.costs, self.memory, self.warm = graph, costs, memory, warm
        self.sizes = activation_sizes(graph, device)
        self.lanes = {unit.id: _Lane(unit) for unit in device.units}
        self.hold_s = device.far_memory.transfer_s(free_bytes, 0)
        self.dram_free_s = 0.0
        self.rows: dict[str, ScheduledOperation] = {}
        self.alive: set[str] = set()

    def run(self, *, overlap: bool) -> tuple[ScheduledOperation, ...]:
        earliest_s = 0.0
        for name in self.memory.order:
            lane = self.lanes[self.costs[name].unit]
            ready_s = max((self.rows[before].finish_s for before in self.graph.predecessors(name)), default=0.0)
            start_s = max(lane.free_s, ready_s, earliest_s)
            if overlap:
                start_s = self._wait_for_memory(name, start_s)
            self.rows[name] = self._place(name, lane, start_s)
            self.alive.add(name)
            earliest_s = start_s if overlap else self.rows[name].finish_s
        return tuple(self.rows.values())

    def _place(self, name: str, lane: _Lane, start_s: float) -> ScheduledOperation:
        """Run one operation on its lane and account for the DRAM time it takes and leaves idle."""
        cost = self.costs[name]
        hidden_s = min(lane.idle_dram_s, self.hold_s) if lane.unit.double_buffer else 0.0
        hidden_s = cost.weight_dram_s if self.warm else min(cost.weight_dram_s, hidden_s)
        dram_s = cost.dram_s - hidden_s
        fused = self._fuses(lane, name)
        begin_s = start_s + (0.0 if fused else cost.launch_s)
        wait_s = max(0.0, self.dram_free_s - begin_s) if dram_s else 0.0
        busy_s = max(cost.compute_s + cost.unpack_s, cost.near_s)
        far_s = wait_s + dram_s
        lane.free_s = begin_s + (max(busy_s, far_s) if lane.unit.double_buffer else busy_s + far_s)
        if cost.dram_s:
            self.dram_free_s = begin_s + far_s
            for other in self.lanes.values():  # no prefetch while this operation occupied DRAM
                other.idle_dram_s = 0.0 if other is not lane else lane.idle_dram_s
        if cost.weight_dram_s:
            lane.idle_dram_s = 0.0
        lane.idle_dram_s += max(0.0, lane.free_s - start_s - far_s)
        lane.last = name
        return ScheduledOperation(cost, start_s, lane.free_s, hidden_s, fused)

    def _fuses(self, lane: _Lane, name: str) -> bool:
        """Whether an operation shares the launch of its only input, which ran just before it."""
        return lane.last in self.graph.predecessors(name) and can_fuse(self.graph, name, lane.unit)

    def _wait_for_memory(self, name: str, start_s: float) -> float:
        """Return when the operation may start without exceeding the peak of sequential execution.

        When all earlier operations have finished, exactly the live set of sequential execution is left, which fits.
        """
        waiting = sorted({row.finish_s for row in self.rows.values() if row.finish_s > start_s}, reverse=True)
        moment_s = start_s
        self.alive = {other for other in self.alive if self._is_alive(other, moment_s)}
        while waiting and self.sizes[name] + sum(self.sizes[other] for other in self.alive) > self.memory.live_bytes:
            moment_s = waiting.pop()
            self.alive = {other for other in self.alive if self._is_alive(other, moment_s)}
        return moment_s

    def _is_alive(self, name: str, moment_s: float) -> bool:
        readers = list(self.graph.successors(name))
        return not readers or any(
            reader not in self.rows or self.rows[reader].finish_s > moment_s for reader in readers
        )


def _lay_out_in_time(
    graph: nx.DiGraph, rows: tuple[ScheduledOperation, ...], sizes: dict[str, int]
) -> tuple[LiveTensor, ...]:
    """Lay out tensors by live ranges in seconds, for operations that overlap."""
    by_name = {row.cost.name: row for row in rows}
    end_s = max(row.finish_s for row in rows)
    tensors = []
    for name, row in by_name.items():
        last_s = max((by_name[reader].finish_s for reader in graph.successors(name)), default=end_s)
        tensors.append(LiveTensor(name, sizes[name], row.start_s, math.nextafter(last_s, 0.0)))
    return lay_out(tensors)
