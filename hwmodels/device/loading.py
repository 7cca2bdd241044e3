"""Loading a device: from a file or a name, as a variant of another device, in a power mode."""

from __future__ import annotations

from fnmatch import fnmatchcase
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from .catalogue import find_device, is_file
from .consistency import check_consistency
from .description import Device
from .device_file import explain, overlay, read_device_file, refusal
from .errors import DeviceError
from .parts import Power
from .provenance import figures
from .strict_yaml import Located
from .units import shown

_MAX_PARENTS = 4


def load_device(name_or_path: str) -> Device:
    """Read a device.

    A file with `inherit: orin-nano` states only what differs from that device.

    Args:
        name_or_path: a path, or the name of a device that ships with this package or with a plug-in, with or without
            `.yaml`; the path comes first. `orin-nano@7W` is the device in its power mode 7W.

    Returns:
        The device, every figure in SI units.

    Raises:
        DeviceError: no such device or mode, or a file that is not a legal and consistent description.
    """
    if "@" not in name_or_path or is_file(Path(name_or_path)):
        return _inherited(find_device(name_or_path), heirs=())[0]
    name, _, mode = name_or_path.rpartition("@")
    return in_power_mode(load_device(name), mode)


def _inherited(file: Traversable, heirs: tuple[Traversable, ...]) -> tuple[Device, Located]:
    """Return the device of a file and its fields with the inherited ones; `heirs` are files that inherit from it."""
    own = read_device_file(file)
    parent = own.value.pop("inherit", None)
    if parent is None:
        return _validated(own), own
    if not isinstance(parent.value, str):
        raise DeviceError(
            f"{parent.place}: inherit: found {shown(parent.plain())}; legal is the name or file of a device; correct it"
        )
    if len(heirs) >= _MAX_PARENTS or file in heirs:
        raise DeviceError(
            f"{parent.place}: inherit: found {parent.value!r}; legal is a device that does not inherit from this one, "
            f"at most {_MAX_PARENTS} deep; correct it"
        )
    try:
        base_file = find_device(parent.value, file.parent if isinstance(file, Path) else None)
    except DeviceError as error:
        raise DeviceError(f"{parent.place}: inherit: {error}") from None
    base, base_root = _inherited(base_file, (*heirs, file))
    root = overlay(base_root, own)
    device = _validated(root)
    _check_own_sources(device, base, own)
    return device, root


def _validated(root: Located) -> Device:
    try:
        device = Device.model_validate(root.plain())
    except ValidationError as error:
        raise explain(error, root, Device) from None
    check_consistency(device, root)
    return device


def _check_own_sources(device: Device, base: Device, own: Located) -> None:
    """Refuse a figure that a variant changes under the source of the figure that it replaces."""
    before = {(figure.path, figure.value) for figure in figures(base)}
    stated = own.value.get("provenance", Located({}, own.place)).value
    patterns = {pattern: device.provenance[pattern] for pattern in stated if pattern != "*"}
    for figure in figures(device):
        fresh = (figure.path, figure.value) not in before
        is_own = any(
            fnmatchcase(figure.path, pattern) and figure.provenance == entry for pattern, entry in patterns.items()
        )
        if fresh and figure.is_sourced and not is_own:
            raise refusal(
                own,
                ("provenance",),
                f"found no entry for {figure.path}, which differs from {base.id}; "
                "legal is a source for every figure that a variant changes; add one",
            )


def in_power_mode(device: Device, mode_id: str) -> Device:
    """Return the device with the clocks, cores, bandwidths and power of one of its power modes.

    Args:
        device: the device.
        mode_id: id of the mode, for example "7W".

    Raises:
        DeviceError: the device has no such mode.
    """
    modes = {mode.id: mode for mode in device.power_modes}
    if mode_id not in modes:
        legal = ", ".join(modes) or "none"
        raise DeviceError(f"{device.id}: found power mode {mode_id!r}; legal are {legal}; choose one of these")
    mode = modes[mode_id]
    units = tuple(
        unit.model_copy(
            update={
                "clock_hz": mode.clocks_hz.get(unit.id, unit.clock_hz),
                "cores": mode.cores.get(unit.id, unit.cores),
            }
        )
        for unit in device.units
    )
    memories = tuple(
        memory.model_copy(update={"read_bytes_per_s": mode.read_bytes_per_s[memory.id], "dram": None})
        if memory.id in mode.read_bytes_per_s
        else memory
        for memory in device.memories
    )
    power = Power.model_construct(tdp_w=mode.tdp_w, static_w=mode.static_w or device.power.static_w)
    name = f"{device.name}, {mode.id}"
    return device.model_copy(update={"name": name, "units": units, "memories": memories, "power": power})


def device_schema() -> dict[str, Any]:
    """Return the JSON schema of a device file, for editors; a file may name a device to `inherit` from."""
    schema = Device.model_json_schema(by_alias=True)
    schema["properties"]["inherit"] = {"type": "string", "description": "a device whose fields hold where absent here"}
    return schema


def sourced_share(device: Device) -> tuple[int, int]:
    """Return how many of the device's figures have a source, and how many figures there are.

    Args:
        device: the device.

    Returns:
        (figures with a source that can be checked, all figures).
    """
    stated = figures(device)
    return sum(figure.is_sourced for figure in stated), len(stated)
