"""From a table of measured numbers to a device file with provenance `measured`.

Measuring needs an engine and lives elsewhere; here its numbers become a description that works anywhere. A file may
call itself calibrated only if the machine was quiet and predictions were checked on models that it never saw.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from .errors import DeviceError

QUIET = 0.10  # largest median / least - 1 of repeated timings that still counts as a quiet machine


@dataclass(frozen=True, slots=True)
class MeasuredMemory:
    """One step of the bandwidth ladder; the last one is DRAM."""

    id: str
    size_bytes: int
    read_bytes_per_s: float
    latency_s: float
    usable: float = 1.0


@dataclass(frozen=True, slots=True)
class MeasuredFormat:
    """How fast products run in one stored format: rows m -> multiply-accumulates per second."""

    id: str
    bits: int
    axis: str
    compute: str
    macs_per_s: Mapping[int, float]
    group_sizes: tuple[int, ...] = ()
    k_multiple: int = 1


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
        elements_per_s: "softmax", "layernorm", "gelu", "elementwise" -> elements per second.
        launch_s: overhead of one operation.
        noise: median / least of repeated timings, minus 1.
        how: what measured it, with versions and date.
        held_out: lowest and highest measured / predicted latency of models not used here; None if unchecked.
    """

    id: str
    name: str
    cores: int
    clock_hz: float
    activation_bits: int
    memories: tuple[MeasuredMemory, ...]
    formats: tuple[MeasuredFormat, ...]
    elements_per_s: Mapping[str, float]
    launch_s: float
    noise: float
    how: str
    held_out: tuple[float, float] | None = None


def device_file(measured: Measurements) -> str:
    """Return the text of a device file; what was not measured (energy, power) is marked assumed.

    Raises:
        DeviceError: nothing measured where a description needs a figure.
    """
    if not measured.formats or len(measured.memories) < 1 or not all(f.macs_per_s for f in measured.formats):
        raise DeviceError(f"{measured.id}: found no products or memories; legal is one of each; measure them")
    per_cycle = {form.compute: 0.0 for form in measured.formats}
    for form in measured.formats:
        per_cycle[form.compute] = max(per_cycle[form.compute], *form.macs_per_s.values())
    is_calibrated = measured.noise <= QUIET and measured.held_out is not None
    described: dict[str, Any] = {
        "schema": "qbert-opt/device@1",
        "id": measured.id,
        "name": measured.name,
        "confidence": "calibrated" if is_calibrated else "partly-measured",
        "activation_bits": measured.activation_bits,
        "memories": [_memory(memory, memory is measured.memories[-1]) for memory in measured.memories],
        "units": [_unit(measured, per_cycle)],
        "formats": [_format(form, per_cycle[form.compute]) for form in measured.formats],
        "power": {"static": "1 W", "tdp": "1000 W"},
        "provenance": _provenance(measured),
    }
    if is_calibrated and measured.held_out is not None:
        described["interval"] = [float(min(1.0, measured.held_out[0])), float(max(1.0, measured.held_out[1]))]
    return str(yaml.safe_dump(described, sort_keys=False, allow_unicode=True, width=120))


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
    rates = [
        {"op": "gemm", "type": compute, "per_cycle": macs_per_s / cycles_per_s, "efficiency": 1.0}
        for compute, macs_per_s in per_cycle.items()
    ]
    rates += [
        {"op": kind, "per_cycle": per_s / cycles_per_s, "efficiency": 1.0}
        for kind, per_s in measured.elements_per_s.items()
    ]
    return {
        "id": "cpu",
        "kind": "cpu",
        "cores": measured.cores,
        "clock": f"{measured.clock_hz:.6g} Hz",
        "path": [memory.id for memory in measured.memories],
        "launch": f"{measured.launch_s:.6g} s",
        "double_buffer": True,
        "energy_mac": dict.fromkeys(per_cycle, "10 pJ"),
        "energy_element": "20 pJ",
        "rates": rates,
    }


def _format(form: MeasuredFormat, peak_macs_per_s: float) -> dict[str, Any]:
    described: dict[str, Any] = {
        "id": form.id,
        "weight_bits": form.bits,
        "axis": form.axis,
        "compute": form.compute,
        "units": ["cpu"],
        "how": "native",  # what unpacking costs is inside the measured efficiency
        "efficiency_by_rows": {rows: per_s / peak_macs_per_s for rows, per_s in sorted(form.macs_per_s.items())},
        "k_multiple": form.k_multiple,
    }
    return described | ({"group_sizes": list(form.group_sizes)} if form.group_sizes else {})


def _provenance(measured: Measurements) -> dict[str, Any]:
    quiet = "quiet" if measured.noise <= QUIET else "too noisy to call calibrated"
    entry = {"kind": "measured", "source": measured.how, "note": f"noise {measured.noise:.1%}: {quiet}"}
    paths = ["memories.*.size", "memories.*.read_bw", "memories.*.latency", "memories.*.usable"]
    paths += ["units.cpu.clock", "units.cpu.cores", "units.cpu.launch", "units.cpu.rates.*"]
    paths += ["formats.*.efficiency_by_rows.*", "interval.*"]
    return {path: dict(entry) for path in paths} | {
        "*": {"kind": "assumed", "source": "not measured by a calibration: energy, power, tile sizes"}
    }
