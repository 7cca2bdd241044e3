"""What is alive when: the order of operations that needs the least memory, and where each tensor lies in it.

A tensor is alive from the operation that makes it until the last operation that reads it (a result that
nobody reads stays until the end). Sizes are those of activations, so nothing here depends on how weights
are stored.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

import networkx as nx

from ..cost.operation import Operation
from ..device.errors import DeviceError

if TYPE_CHECKING:
    from ..device.description import Device

_MAX_STATES = 5_000  # an encoder of 12 layers has a few hundred; a graph that exceeds this is ordered greedily


@dataclass(frozen=True, slots=True)
class LiveTensor:
    """One activation tensor in the arena: bytes at an offset, alive from step `start` to step `stop` inclusive."""

    name: str
    size_bytes: int
    start: float
    stop: float
    offset_bytes: int = 0


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """An order of operations with its tensors laid out.

    Attributes:
        order: the operations.
        tensors: where each activation lies and how long it lives.
        live_bytes: most bytes alive at once, the lower bound of any layout.
        peak_bytes: bytes of the arena that the layout needs.
    """

    order: tuple[str, ...]
    tensors: tuple[LiveTensor, ...]
    live_bytes: int
    peak_bytes: int


def operations(graph: nx.DiGraph) -> dict[str, Operation]:
    """Return the operations of a graph by name.

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
    """Return the order that keeps the fewest activation bytes alive, and a layout for it."""
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
    """Return the bytes of each operation's output: as wide as the device keeps it, or as its widest reader reads it."""
    ops = operations(graph)
    widths = {
        name: max([device.activation_bits, *(ops[reader].input_bits or 0 for reader in graph.successors(name))])
        for name in ops
    }
    return {name: op.output_elements * widths[name] // 8 for name, op in ops.items()}


def least_memory_order(graph: nx.DiGraph, sizes: dict[str, int]) -> tuple[str, ...]:
    """Return the topological order whose largest live set is smallest.

    A set of finished operations fixes what is alive, so the order is a path through such sets whose widest
    step is least: Dijkstra's search with max in place of plus. Exact up to a few thousand sets; beyond,
    each step takes the operation that leaves the fewest bytes alive.
    """
    search = _Search(graph, sizes)
    return search.exact() or search.greedy()


class _Search:
    """Sets of finished operations as bit masks, with the bytes that are alive after each."""

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
    """Give every tensor an offset: largest first, each in the lowest gap among those alive with it.

    Greedy by size (Pisarchyk and Lee 2020), as in TensorFlow Lite's arena planner.
    """
    placed: list[LiveTensor] = []
    for tensor in sorted(tensors, key=lambda t: (-t.size_bytes, t.start, t.name)):
        offset = 0
        for other in placed:  # kept sorted by offset
            if other.start > tensor.stop or tensor.start > other.stop:
                continue
            if other.offset_bytes - offset >= tensor.size_bytes:
                break
            offset = max(offset, other.offset_bytes + other.size_bytes)
        put = LiveTensor(tensor.name, tensor.size_bytes, tensor.start, tensor.stop, offset)
        placed.append(put)
        placed.sort(key=lambda t: t.offset_bytes)
    return tuple(placed)


def _live(tensors: tuple[LiveTensor, ...]) -> int:
    """Return the most bytes alive at once; the maximum lies where some tensor begins."""
    changes = sorted([(t.start, 1, t.size_bytes) for t in tensors] + [(t.stop, 2, -t.size_bytes) for t in tensors])
    live = peak = 0
    for _, _, change in changes:
        live += change
        peak = max(peak, live)
    return peak


def _extent(tensors: tuple[LiveTensor, ...]) -> int:
    return max((t.offset_bytes + t.size_bytes for t in tensors), default=0)
