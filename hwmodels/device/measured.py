"""From a table of measurements to a device file with provenance `measured`.

Measuring needs an engine and is done elsewhere; here its results become a device description. A file is marked
calibrated only if the machine was quiet and predictions were checked on held-out models.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from .errors import DeviceError
from .strict_yaml import dump_yaml

QUIET = 0.10  # largest spread of repeated timings that still counts as a quiet machine
MISSED = 1.25  # a held-out model may be this much faster or slower than predicted, where a file is called calibrated


@dataclass(frozen=True, slots=True)
class MeasuredMemory:
    """One memory level as measured; the last one is DRAM.

    Attributes:
        id: name of the level.
        size_bytes: capacity.
        read_bytes_per_s: bandwidth of reading.
        latency_s: of one access.
        usable: share of the size that a model may fill.
    """

    id: str
    size_bytes: int
    read_bytes_per_s: float
    latency_s: float
    usable: float = 1.0


@dataclass(frozen=True, slots=True)
class MeasuredGrid:
    """Work per second at every combination of three sizes.

    Attributes:
        rows: rows m of the input.
        inputs: columns k of the input.
        outputs: columns n of the output.
        per_s: products or elements per second, `[rows, inputs, outputs]` flattened, outputs fastest.
        launch_s: overhead of one operation; None where it is that of all operations.
    """

    rows: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    per_s: tuple[float, ...] = field(repr=False)
    launch_s: float | None = None


@dataclass(frozen=True, slots=True)
class MeasuredFormat:
    """How fast products run in one stored format: multiply-accumulates per second, by rows m or over a whole grid.

    `loaded_bits` is the width of a weight in memory while the engine runs, where it differs from the stored width.
    """

    id: str
    bits: int
    axis: str
    compute: str
    macs_per_s: Mapping[int, float] | MeasuredGrid
    group_sizes: tuple[int, ...] = ()
    k_multiple: int = 1
    loaded_bits: int | None = None

    @property
    def most_macs_per_s(self) -> float:
        """The fastest product."""
        return max(_speeds(self.macs_per_s))


@dataclass(frozen=True, slots=True)
class Measurements:
    """What a calibration measured on one machine.

    Attributes:
        id: short name of the device.
        name: the processor and the engine, in words.
        cores: cores that the engine used.
        clock_hz: clock while it ran.
        activation_bits: width of the activations between operations.
        memories: from nearest to farthest, the last one DRAM.
        formats: measured products.
        elements_per_s: "softmax", "layernorm", "gelu", "elementwise", "gather" -> elements per second; "matmul" ->
            products of two activations per second.
        launch_s: overhead of one operation.
        noise: spread of repeated timings as a share of their median.
        how: the tool that measured, with versions and date.
        path: ids of the memories that feed the unit, nearest first; the last two if empty.
        held_out: lowest and highest measured / predicted latency of held-out models; None if not checked.
        engine: name of the engine that was timed; None leaves the engines of the machine unknown.
    """

    id: str
    name: str
    cores: int
    clock_hz: float
    activation_bits: int
    memories: tuple[MeasuredMemory, ...] = field(repr=False)
    formats: tuple[MeasuredFormat, ...] = field(repr=False)
    elements_per_s: Mapping[str, float | MeasuredGrid] = field(repr=False)
    launch_s: float
    noise: float
    how: str = field(repr=False)
    path: tuple[str, ...] = ()
    held_out: tuple[float, float] | None = None
    engine: str | None = None

    @property
    def is_calibrated(self) -> bool:
        """Whether the machine was quiet and predictions for held-out models were close enough."""
        if self.held_out is None or self.noise > QUIET:
            return False
        lowest, highest = self.held_out
        return lowest >= 1 / MISSED and highest <= MISSED


def device_file(measured: Measurements) -> str:
    """Return the text of a device file; what was not measured (energy, power) is marked assumed.

    Args:
        measured: what a calibration measured.

    Returns:
        YAML that `load_device` reads.

    Raises:
        DeviceError: nothing measured where a description needs a figure, or a figure that no measurement yields.
    """
    if not measured.formats or not measured.memories or not all(_speeds(f.macs_per_s) for f in measured.formats):
        raise DeviceError(f"{measured.id}: found no products or memories; legal is one of each; measure them")
    for mistake in _mistakes(measured):
        raise DeviceError(f"{measured.id}: {mistake}; measure again")
    per_cycle = {form.compute: 0.0 for form in measured.formats}
    for form in measured.formats:
        per_cycle[form.compute] = max(per_cycle[form.compute], form.most_macs_per_s)
    is_calibrated = measured.is_calibrated
    described: dict[str, Any] = {
        "schema": "qbert-opt/device@1",
        "id": measured.id,
        "name": measured.name,
        "confidence": "calibrated" if is_calibrated else "partly-measured",
        "activation_bits": measured.activation_bits,
        "memories": [_memory(memory, memory is measured.memories[-1]) for memory in measured.memories],
        "units": [_unit(measured, per_cycle)],
        "formats": [
            _format(form, per_cycle[form.compute], _shared_grid(measured.formats, form.compute))
            for form in measured.formats
        ],
        "power": {"static": "1 W", "tdp": "1000 W"},
        "provenance": _provenance(measured),
    }
    if measured.engine is not None:
        described["engines"] = [measured.engine]
    if is_calibrated and measured.held_out is not None:
        described["interval"] = [float(min(1.0, measured.held_out[0])), float(max(1.0, measured.held_out[1]))]
    return dump_yaml(described)


def _mistakes(measured: Measurements) -> Iterator[str]:
    """Yield what no measurement yields: speeds that are not positive and finite, sizes that do not rise."""
    for memory in measured.memories:
        yield from _not_positive(f"memory {memory.id}", [memory.size_bytes, memory.read_bytes_per_s])
        yield from _not_positive(f"latency of {memory.id}", [memory.latency_s], or_zero=True)
    tables = {f"format {form.id}": form.macs_per_s for form in measured.formats} | dict(measured.elements_per_s)
    for name, table in tables.items():
        yield from _not_positive(name, _speeds(table))
        if isinstance(table, MeasuredGrid):
            yield from _no_grid(name, table)
    yield from _not_positive("cores and clock", [measured.cores, measured.clock_hz])
    yield from _not_positive("launch and noise", [measured.launch_s, measured.noise], or_zero=True)
    if measured.held_out is not None:
        yield from _not_positive("held-out ratios", measured.held_out)
        if measured.held_out[0] > measured.held_out[1]:
            yield f"held-out ratios: found {measured.held_out}; legal is the lowest first"


def _not_positive(name: str, values: Iterable[float], *, or_zero: bool = False) -> Iterator[str]:
    for value in values:
        if not (0 < value < math.inf or (or_zero and value == 0)):
            yield f"{name}: found {value!r}; legal are finite numbers {'of at least 0' if or_zero else 'above 0'}"


def _no_grid(name: str, grid: MeasuredGrid) -> Iterator[str]:
    axes = {"rows": grid.rows, "inputs": grid.inputs, "outputs": grid.outputs}
    for axis, sizes in axes.items():
        if not sizes or sizes[0] < 1 or any(low >= high for low, high in pairwise(sizes)):
            yield f"{name}: found {axis} {list(sizes)}; legal are sizes from 1 that rise"
    points = math.prod(len(sizes) for sizes in axes.values())
    if len(grid.per_s) != points:
        yield f"{name}: found {len(grid.per_s)} speeds; legal are rows x inputs x outputs = {points}"


def _memory(memory: MeasuredMemory, is_last: bool) -> dict[str, Any]:
    return {
        "id": memory.id,
        "kind": "dram" if is_last else "cache",
        "size": f"{memory.size_bytes} B",
        "read_bw": f"{memory.read_bytes_per_s:.6g} B/s",
        "latency": f"{memory.latency_s:.6g} s",
        "usable": memory.usable,
        "energy": "8 pJ/bit" if is_last else "0.5 pJ/bit",
    }


def _unit(measured: Measurements, per_cycle: Mapping[str, float]) -> dict[str, Any]:
    cycles_per_s = measured.cores * measured.clock_hz
    first = next(iter(per_cycle))
    rates: list[dict[str, Any]] = []
    for compute, macs_per_s in per_cycle.items():
        rate: dict[str, Any] = {"op": "gemm", "type": compute, "per_cycle": macs_per_s / cycles_per_s}
        shared = _shared_grid(measured.formats, compute)
        rate |= {"efficiency": 1.0} if shared is None else {"efficiency_by_shape": _grid(shared, macs_per_s)}
        rates.append(rate)
    for kind, per_s in measured.elements_per_s.items():
        rate = {"op": kind, "per_cycle": max(_speeds(per_s)) / cycles_per_s, "efficiency": 1.0}
        rate |= {"type": first} if kind == "matmul" else {}
        if isinstance(per_s, MeasuredGrid):
            rate |= {"efficiency_by_shape": _grid(per_s, max(per_s.per_s))}
            rate |= {} if per_s.launch_s is None else {"launch": f"{per_s.launch_s:.6g} s"}
        rates.append(rate)
    return {
        "id": "cpu",
        "kind": "cpu",
        "cores": measured.cores,
        "clock": f"{measured.clock_hz:.6g} Hz",
        # what crosses the caches above is inside the measured rates
        "path": list(measured.path or (memory.id for memory in measured.memories[-2:])),
        "launch": f"{measured.launch_s:.6g} s",
        "double_buffer": False,  # what streams was measured as time beside the product itself
        "energy_mac": dict.fromkeys(per_cycle, "10 pJ"),
        "energy_element": "20 pJ",
        "rates": rates,
    }


def _shared_grid(formats: tuple[MeasuredFormat, ...], compute: str) -> MeasuredGrid | None:
    """Return the grid that several formats of one type share; it is written once, with the rate."""
    grids = [form.macs_per_s for form in formats if form.compute == compute]
    for grid in grids:
        if isinstance(grid, MeasuredGrid) and sum(other is grid for other in grids) > 1:
            return grid
    return None


def _format(form: MeasuredFormat, peak_macs_per_s: float, shared: MeasuredGrid | None) -> dict[str, Any]:
    described: dict[str, Any] = {
        "id": form.id,
        "weight_bits": form.bits,
        "axis": form.axis,
        "compute": form.compute,
        "units": ["cpu"],
        "how": "native",  # what unpacking costs is inside the measured efficiency
        "k_multiple": form.k_multiple,
    }
    if isinstance(form.macs_per_s, MeasuredGrid):
        if form.macs_per_s is not shared:
            described["efficiency_by_shape"] = _grid(form.macs_per_s, peak_macs_per_s)
    else:
        by_rows = {rows: per_s / peak_macs_per_s for rows, per_s in sorted(form.macs_per_s.items())}
        described["efficiency_by_rows"] = by_rows
    described |= {} if form.loaded_bits is None else {"loaded_bits": form.loaded_bits}
    return described | ({"group_sizes": list(form.group_sizes)} if form.group_sizes else {})


def _grid(grid: MeasuredGrid, peak_per_s: float) -> dict[str, Any]:
    return {
        "rows": list(grid.rows),
        "inputs": list(grid.inputs),
        "outputs": list(grid.outputs),
        "efficiency": [float(f"{per_s / peak_per_s:.4g}") for per_s in grid.per_s],
    }


def _speeds(measured: float | MeasuredGrid | Mapping[int, float]) -> list[float]:
    if isinstance(measured, MeasuredGrid):
        return list(measured.per_s)
    return list(measured.values()) if isinstance(measured, Mapping) else [measured]


def _provenance(measured: Measurements) -> dict[str, Any]:
    quiet = "quiet" if measured.noise <= QUIET else "too noisy to call calibrated"
    entry = {"kind": "measured", "source": measured.how, "note": f"noise {measured.noise:.1%}: {quiet}"}
    paths = ["memories.*.size", "memories.*.read_bw", "memories.*.latency", "memories.*.usable"]
    paths += ["units.cpu.clock", "units.cpu.cores", "units.cpu.launch", "units.cpu.rates.*"]
    paths += ["formats.*.efficiency_by_rows.*", "formats.*.efficiency_by_shape", "interval.*"]
    return {path: dict(entry) for path in paths} | {
        "*": {"kind": "assumed", "source": "not measured by a calibration: energy, power, tile sizes"}
    }
