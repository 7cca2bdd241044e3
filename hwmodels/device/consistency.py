"""Figures of a device that contradict each other, and references to parts that do not exist.

Public tables of devices are wrong in ways that arithmetic catches (a doubled bus, a bandwidth in bits);
these checks run on every file that is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from .description import Device
from .device_file import refusal
from .provenance import figures
from .strict_yaml import Located
from .vocabulary import FLOAT_TYPES, OPERATION_KINDS

BANDWIDTH_TOLERANCE = 0.02


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A location in the device and what is wrong there."""

    loc: tuple[str | int, ...]
    message: str


def check_consistency(device: Device, root: Located) -> None:
    """Refuse a device that contradicts itself.

    Args:
        device: the device.
        root: the file that it was read from.

    Raises:
        DeviceError: the first contradiction, with file, line and field.
    """
    for check in (_names, _memories, _paths, _units, _formats, _modes, _budgets, _sources):
        for contradiction in check(device):
            raise refusal(root, contradiction.loc, contradiction.message)


def _names(device: Device) -> Iterator[Contradiction]:
    """Every id once, so that a path means one thing."""
    for group in ("memories", "units", "formats"):
        ids = [part.id for part in getattr(device, group)]
        for position, part_id in enumerate(ids):
            if part_id in ids[:position]:
                yield Contradiction(
                    (group, position, "id"), f"found {part_id!r} twice; legal is each id once; rename it"
                )


def _memories(device: Device) -> Iterator[Contradiction]:
    """DRAM bandwidth = data rate x bus width."""
    for position, memory in enumerate(device.memories):
        if memory.dram is None:
            continue
        wired = memory.dram.data_rate_per_s * memory.dram.bus_bits / 8
        if abs(memory.read_bytes_per_s - wired) > BANDWIDTH_TOLERANCE * wired:
            yield Contradiction(
                ("memories", position, "read_bw"),
                f"found {memory.read_bytes_per_s / 1e9:.3f} GB/s; legal is data_rate x bus_bits / 8 = "
                f"{wired / 1e9:.3f} GB/s within {BANDWIDTH_TOLERANCE:.0%}; correct one of the three",
            )


def _paths(device: Device) -> Iterator[Contradiction]:
    """Paths lead through memories that exist, from small to large."""
    known = {memory.id: memory for memory in device.memories}
    for position, unit in enumerate(device.units):
        for step, memory_id in enumerate(unit.path):
            if memory_id not in known:
                yield Contradiction(
                    ("units", position, "path", step),
                    f"found {memory_id!r}; legal are the memories {', '.join(known)}; correct it",
                )
            if memory_id in unit.path[:step]:
                yield Contradiction(
                    ("units", position, "path", step),
                    f"found {memory_id!r} twice; legal is each memory once; remove one",
                )
        path = [known[memory_id] for memory_id in unit.path if memory_id in known]
        for near, far in pairwise(path):
            if near.size_bytes > far.size_bytes:
                yield Contradiction(
                    ("units", position, "path"),
                    f"found {near.id} larger than its parent {far.id}; legal is nearest (smallest) first; correct it",
                )
        if path and path[-1].kind not in ("dram", "flash"):
            yield Contradiction(
                ("units", position, "path"),
                f"found {path[-1].id}, a {path[-1].kind}, as the last memory; legal is a dram or flash; add it",
            )


def _units(device: Device) -> Iterator[Contradiction]:
    """Every kind of operation runs somewhere, and every product has an energy."""
    for position, unit in enumerate(device.units):
        for step, rate in enumerate(unit.rates):
            if rate.op in ("gemm", "matmul") and rate.type not in unit.energy_mac_j:
                yield Contradiction(
                    ("units", position, "rates", step),
                    f"found type {rate.type}; legal are those of energy_mac, {', '.join(unit.energy_mac_j)}; add it",
                )
            if rate.type in FLOAT_TYPES and not unit.has_floats:
                yield Contradiction(
                    ("units", position, "rates", step),
                    f"found type {rate.type}; legal are integers on a unit with floating_point: false; correct one",
                )
            if (rate.op, rate.type) in [(other.op, other.type) for other in unit.rates[:step]]:
                yield Contradiction(
                    ("units", position, "rates", step),
                    f"found a second rate of {rate.op}{f' in {rate.type}' if rate.type else ''}; "
                    "legal is one for each operation and type; remove one",
                )
    rated = {rate.op for unit in device.units for rate in unit.rates}
    rated |= {"matmul"} if "gemm" in rated else set()
    rated |= {"gather", "append"} if "elementwise" in rated else set()
    for kind in OPERATION_KINDS:
        if kind not in rated:
            yield Contradiction(("units",), f"found no rate for {kind}; legal is one on some unit; add it")


def _formats(device: Device) -> Iterator[Contradiction]:
    """A format names units that exist and that multiply in its compute type."""
    units = {unit.id: unit for unit in device.units}
    for position, form in enumerate(device.formats):
        here = ("formats", position)
        for step, unit_id in enumerate(form.units):
            if unit_id not in units:
                yield Contradiction(
                    (*here, "units", step),
                    f"found {unit_id!r}; legal are the units {', '.join(units)}; correct it",
                )
                continue
            types = [rate.type for rate in units[unit_id].rates if rate.op == "gemm"]
            if form.compute not in types:
                yield Contradiction(
                    (*here, "compute"),
                    f"found {form.compute}; legal are the types that {unit_id} multiplies in: "
                    f"{', '.join(map(str, types))}; correct it or add a rate",
                )
        if (form.how == "lut") != (form.table_entries is not None) or form.table_entries not in (
            None,
            2**form.weight_bits,
        ):
            yield Contradiction(
                (*here, "table_entries"),
                f"found {form.table_entries}; legal is {2**form.weight_bits} for how: lut and none else; correct it",
            )
        if (form.axis == "columns") != bool(form.group_sizes) or (form.axis != "rows" and form.row_groups):
            yield Contradiction(
                here, "found groups that do not match the axis; legal is group_sizes for columns only and "
                "row_groups for rows only; correct it"
            )  # fmt: skip
        if form.how == "native" and (form.unpack_cycles_per_weight or form.unpack_cycles_per_group):
            yield Contradiction(here, "found unpack cycles; legal is none for how: native; choose dequant or lut")


def _modes(device: Device) -> Iterator[Contradiction]:
    """A power mode changes units and memories that exist."""
    known = {
        "clocks": ("clocks_hz", {unit.id for unit in device.units}),
        "cores": ("cores", {unit.id for unit in device.units}),
        "read_bw": ("read_bytes_per_s", {memory.id for memory in device.memories}),
    }
    for position, mode in enumerate(device.power_modes):
        for field, (attribute, legal) in known.items():
            for part_id in getattr(mode, attribute):
                if part_id not in legal:
                    yield Contradiction(
                        ("power_modes", position, field, part_id),
                        f"found {part_id!r}; legal are {', '.join(sorted(legal))}; correct it",
                    )


def _budgets(device: Device) -> Iterator[Contradiction]:
    """Reserved memory and limits fit what is there."""
    sizes = {memory.id: memory.size_bytes for memory in device.memories}
    for position, reserved in enumerate(device.reserved):
        if reserved.size_bytes >= sizes.get(reserved.memory, 0):
            yield Contradiction(
                ("reserved", position),
                f"found {reserved.size_bytes} bytes of {reserved.memory!r}; legal is less than its size; correct it",
            )
    if device.power.static_w > device.power.tdp_w:
        yield Contradiction(("power", "static"), "found more than tdp; legal is at most tdp; correct one of them")
    largest = max(sizes.values())
    for name in ("weights", "peak_ram"):
        limit = getattr(device.limits, name)
        if limit is not None and limit > largest:
            yield Contradiction(
                ("limits", name),
                f"found {limit} bytes; legal is at most the largest memory's {largest}; lower it",
            )


def _sources(device: Device) -> Iterator[Contradiction]:
    """Every figure has a source or is marked assumed."""
    for figure in figures(device):
        if figure.provenance is None:
            yield Contradiction(
                ("provenance",),
                f"found no entry for {figure.path}; legal is a source for every figure; "
                "add one, or '*': {kind: assumed, source: ...}",
            )
