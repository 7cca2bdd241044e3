"""Devices by name: the files that ship with this package, and those that other packages bring.

A package brings devices by an entry point of the group `qbert_opt.devices`:

    [project.entry-points."qbert_opt.devices"]
    acme = "acme_boards:devices"         # a folder inside the package: every NAME.yaml in it is the device NAME
    acme-npu = "acme_boards:npu.yaml"    # one file: the device acme-npu
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from pathlib import Path

from .errors import DeviceError

GROUP = "qbert_opt.devices"


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A device that has a name: its file, and who brings it."""

    name: str
    file: Traversable
    origin: str


def bundled_devices() -> tuple[str, ...]:
    """Return the names of the devices that ship with this package, sorted."""
    return tuple(sorted(entry.name for entry in _bundled()))


def device_names() -> tuple[str, ...]:
    """Return the names of all devices: those that ship with this package and those of installed plug-ins, sorted.

    Raises:
        DeviceError: a plug-in that cannot be read.
    """
    return tuple(sorted({entry.name for entry in _entries()}))


def find_device(name_or_path: str, folder: Path | None = None) -> Traversable:
    """Return the file of a device.

    Args:
        name_or_path: a path, or a name with or without `.yaml`; the path comes first.
        folder: where a relative path starts; the working directory if None.

    Raises:
        DeviceError: no such file or name, a folder, or a name that two packages claim.
    """
    path = (folder or Path()) / name_or_path
    if is_file(path):
        return path
    label = name_or_path[:200] if name_or_path.isprintable() else ascii(name_or_path[:200])
    if _is_folder(path):
        raise DeviceError(f"{label}: found a folder; legal is a device file; name the file inside it")
    name = name_or_path.removesuffix(".yaml")
    entries = list(_entries())
    named = [entry for entry in entries if entry.name == name]
    if len(named) > 1:
        claimed = " and ".join(entry.origin for entry in named)
        raise DeviceError(f"{label}: found it in {claimed}; legal is one of a name; give a path or uninstall one")
    if named:
        return named[0].file
    names = sorted({entry.name for entry in entries})
    near = difflib.get_close_matches(name[:200], names, n=1)
    guess = f"did you mean {near[0]!r}?" if near else "give a path or one of these names"
    raise DeviceError(f"{label}: found no such file or device; legal names are {', '.join(names)}; {guess}")


def is_file(path: Path) -> bool:
    """Whether there is a file at a path; False also for a path that the system cannot look up.

    Args:
        path: any path, even one with illegal characters.
    """
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, no permission, a NUL byte
        return False


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _entries() -> Iterator[CatalogueEntry]:
    yield from _bundled()
    for point in _points(tuple(sys.path)):
        yield from _plugged_in(point)


@cache  # looking through every installed package takes longer than reading a device
def _points(_path: tuple[str, ...]) -> tuple[metadata.EntryPoint, ...]:
    """The entry points of the packages on a path, which is the one that modules are imported from."""
    return tuple(metadata.entry_points(group=GROUP))


def _bundled() -> Iterator[CatalogueEntry]:
    return _in_folder(resources.files("hwmodels") / "devices", "hwmodels")


def _in_folder(folder: Traversable, origin: str) -> Iterator[CatalogueEntry]:
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".yaml"):
            yield CatalogueEntry(file.name.removesuffix(".yaml"), file, origin)


def _plugged_in(point: metadata.EntryPoint) -> Iterator[CatalogueEntry]:
    """Yield the devices of one entry point, `PACKAGE`, `PACKAGE:FOLDER` or `PACKAGE:FILE.yaml`."""
    origin = point.dist.name if point.dist else point.module
    place = f"{origin}: entry point {point.name} = {point.value}"
    try:
        resource = resources.files(point.module)
    except Exception as error:  # whatever the package does when it is imported
        reason = " ".join(str(error).split())[:200]
        raise DeviceError(
            f"{place}: found {type(error).__name__}: {reason}; legal is a package that can be imported; "
            "repair or uninstall it"
        ) from None
    if point.attr:
        resource = resource / point.attr
    if resource.is_dir():
        yield from _in_folder(resource, origin)
    elif resource.is_file():
        yield CatalogueEntry(point.name, resource, origin)
    else:
        raise DeviceError(
            f"{place}: found no such file or folder; legal is PACKAGE:FOLDER or PACKAGE:FILE.yaml; "
            "repair or uninstall it"
        )
