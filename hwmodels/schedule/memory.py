"""Live ranges: the order of operations with the smallest peak of live activations, and the layout of the arena.

A tensor is live from the operation that produces it to the last operation that reads it; a result that is never read
is live to the end. Only activations count, so nothing here depends on how weights are stored.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

import networkx as nx

from ..cost.operation import Operation
from ..device.errors import DeviceError

if TYPE_CHECKING:
    from ..device.description import Device

_MAX_STATES = 5_000  # an encoder of 12 layers has a few hundred; larger graphs are ordered greedily
_MOMENTS = 8  # beginnings of live ranges that are filed together


@dataclass(frozen=True, slots=True)
class LiveTensor:
    """One activation tensor in the arena, live from `start` to `stop`, both included.

    Attributes:
        name: of the tensor.
        size_bytes: its size.
        start: when it is written: a step of the order of execution, or seconds in a schedule on several units.
        stop: when it is last read, likewise.
        offset_bytes: where it begins in the arena.
    """

    name: str
    size_bytes: int
    start: float
    stop: float
    offset_bytes: int = 0


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """An order of operations and the layout of their activations.

    Attributes:
        order: names of the operations in the order of execution.
        tensors: offset and live range of each activation.
        live_bytes: peak of the live bytes, the lower bound of any layout.
        peak_bytes: size of the arena that the layout needs.
    """

    order: tuple[str, ...]
    tensors: tuple[LiveTensor, ...]
    live_bytes: int
    peak_bytes: int


def operations(graph: nx.DiGraph) -> dict[str, Operation]:
    """Return the operations of a graph by name.

    Args:
        graph: operator graph.

    Raises:
        DeviceError: empty, cyclic, or a node without an operation of its name.
    """
    if not graph:
        raise DeviceError("operator graph: found no operations; legal is at least one; add it")
    if not nx.is_directed_acyclic_graph(graph):
        raise DeviceError("operator graph: found a cycle; legal is a directed acyclic graph; remove an edge")
    ops = dict(graph.nodes(data="op"))
    for name, op in ops.items():
        if not isinstance(op, Operation):
            raise DeviceError(f"operator graph: {name}: found no 'op'; legal is an Operation on every node; add it")
        if op.name != name:
            raise DeviceError(f"operator graph: {name}: found the operation {op.name!r}; legal is one of that name")
    return ops


def plan_memory(graph: nx.DiGraph, device: Device) -> MemoryPlan:
    """Return the order with the smallest peak of live activations, and a layout for it.

    Args:
        graph: operator graph.
        device: the hardware, which sets the width of activations.

    Raises:
        DeviceError: no legal graph, see `operations`.
    """
    sizes = activation_sizes(graph, device)
    order = least_memory_order(graph, sizes)
    step = {name: position for position, name in enumerate(order)}
    spans = {
        name: (step[name], max((step[reader] for reader in graph.successors(name)), default=len(order) - 1))
        for name in order
    }
    tensors = lay_out([LiveTensor(name, sizes[name], *spans[name]) for name in order])
    return MemoryPlan(order, tensors, _live(tensors), _extent(tensors))


def activation_sizes(graph: nx.DiGraph, device: Device) -> dict[str, int]:
    """Return the bytes of each operation's output, in the device's activation width or its widest reader's.

    Args:
        graph: operator graph.
        device: its activation width.
    """
    ops = operations(graph)
    widths = {
        name: max([device.activation_bits, *(ops[reader].input_bits or 0 for reader in graph.successors(name))])
        for name in ops
    }
    return {name: op.output_elements * widths[name] // 8 for name, op in ops.items()}


def least_memory_order(graph: nx.DiGraph, sizes: dict[str, int]) -> tuple[str, ...]:
    """Return the topological order with the smallest peak of live bytes.

    The set of finished operations determines what is live, so an order is a path through such sets, and the best one
    is found by Dijkstra's algorithm with the maximum in place of the sum. Exact up to a few thousand sets; beyond that,
    greedy: each step runs the operation that leaves the fewest live bytes.

    Args:
        graph: operator graph.
        sizes: bytes of each operation's output.

    Returns:
        Names of all operations.
    """
    search = _Search(graph, sizes)
    return search.exact() or search.greedy()


class _Search:
    """Search over sets of finished operations, kept as bit masks, with the live bytes after each."""

    def __init__(self, graph: nx.DiGraph, sizes: dict[str, int]) -> None:
        self.names = list(nx.topological_sort(graph))
        bit = {name: position for position, name in enumerate(self.names)}
        self.sizes = [sizes[name] for name in self.names]
        self.before = [sum(1 << bit[p] for p in graph.predecessors(name)) for name in self.names]
        self.after = [sum(1 << bit[s] for s in graph.successors(name)) for name in self.names]
        self.inputs = [[bit[p] for p in graph.predecessors(name)] for name in self.names]
        self.readers = [[bit[s] for s in graph.successors(name)] for name in self.names]
        self.full = (1 << len(self.names)) - 1

    def step(self, done: int, live: int, op: int) -> tuple[int, int, int]:
        """Return the set, the live bytes after `op`, and the live bytes while it runs."""
        during = live + self.sizes[op]
        now = done | 1 << op
        freed = sum(self.sizes[i] for i in self.inputs[op] if self.after[i] & ~now == 0)
        return now, during - freed, during

    def grown(self, ready: tuple[int, ...], done: int, op: int) -> tuple[int, ...]:
        """Return the operations that may run once `op` is done too."""
        fresh = tuple(r for r in self.readers[op] if self.before[r] & ~done == 0)
        return tuple(r for r in ready if r != op) + fresh

    def start(self) -> tuple[int, ...]:
        return tuple(op for op, before in enumerate(self.before) if not before)

    def exact(self) -> tuple[str, ...] | None:
        """Return the best order, or None where there are too many sets."""
        heap: list[tuple[int, int, int, int, tuple[int, ...]]] = [(0, 0, 0, 0, self.start())]
        came_from: dict[int, tuple[int, int]] = {}
        best = {0: 0}
        while heap and len(best) < _MAX_STATES:
            peak, left, done, live, ready = heapq.heappop(heap)
            if done == self.full:
                return self._unwind(came_from)
            if peak > best[done]:
                continue
            for op in ready:
                now, after, during = self.step(done, live, op)
                wider = max(peak, during)
                if wider < best.get(now, wider + 1):
                    best[now] = wider
                    came_from[now] = (done, op)
                    heapq.heappush(heap, (wider, left - 1, now, after, self.grown(ready, now, op)))
        return None

    def _unwind(self, came_from: dict[int, tuple[int, int]]) -> tuple[str, ...]:
        order: list[str] = []
        done = self.full
        while done:
            done, op = came_from[done]
            order.append(self.names[op])
        return tuple(reversed(order))

    def greedy(self) -> tuple[str, ...]:
        """Return an order that frees as much as it can at every step."""
        done, live, ready, order = 0, 0, self.start(), []
        while ready:
            op = min(ready, key=lambda op: self.step(done, live, op)[1:])
            done, live, _ = self.step(done, live, op)
            ready = self.grown(ready, done, op)
            order.append(self.names[op])
        return tuple(order)


def lay_out(tensors: list[LiveTensor]) -> tuple[LiveTensor, ...]:
    """Give every tensor an offset: largest first, each in the lowest gap between tensors live at the same time.

    Greedy by size (Pisarchyk and Lee 2020), as in TensorFlow Lite's arena planner. Tensors that are live at the same
    time share a moment at which one of them begins, so each is compared only with those that are filed under its own.

    Args:
        tensors: sizes and live ranges; their offsets are ignored.
    """
    starts = sorted({tensor.start for tensor in tensors})
    placed: list[LiveTensor] = []
    by_time: dict[int, list[LiveTensor]] = {}
    for tensor in sorted(tensors, key=lambda t: (-t.size_bytes, t.start, t.name)):
        first, last = (bisect_right(starts, moment) - 1 for moment in (tensor.start, tensor.stop))
        times = range(first // _MOMENTS, last // _MOMENTS + 1)
        near = {other.name: other for time in times for other in by_time.get(time, ())}
        offset = 0
        for other in sorted(near.values(), key=lambda t: t.offset_bytes):
            if other.start > tensor.stop or tensor.start > other.stop:
                continue
            if other.offset_bytes - offset >= tensor.size_bytes:
                break
            offset = max(offset, other.offset_bytes + other.size_bytes)
        put = LiveTensor(tensor.name, tensor.size_bytes, tensor.start, tensor.stop, offset)
        placed.append(put)
        for time in times:
            by_time.setdefault(time, []).append(put)
    return tuple(sorted(placed, key=lambda t: t.offset_bytes))


def _live(tensors: tuple[LiveTensor, ...]) -> int:
    """Return the peak of the live bytes, which is reached where some live range begins."""
    changes = sorted([(t.start, 1, t.size_bytes) for t in tensors] + [(t.stop, 2, -t.size_bytes) for t in tensors])
    live = peak = 0
    for _, _, change in changes:
        live += change
        peak = max(peak, live)
    return peak


def _extent(tensors: tuple[LiveTensor, ...]) -> int:
    return max((t.offset_bytes + t.size_bytes for t in tensors), default=0)
