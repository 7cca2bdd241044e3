"""A device: its memories, compute units, formats and limits, read from one YAML file with sources.

`load_device` takes a path first and a bundled name second, so that `car-soc.yaml` works from anywhere.
"""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from .consistency import check_consistency
from .device_file import Located, explain, read_device_file
from .errors import DeviceError
from .fields import Name, Part
from .parts import Format, Limits, Memory, Power, Provenance, Reserved, Unit
from .provenance import Figure, figures

SCHEMA = "qbert-opt/device@1"


class Device(Part):
    """One device. The first unit that supports an operation runs it; activations are stored in `activation_bits`.

    Attributes:
        confidence: how far latency may be trusted: "theoretical", "partly-measured" or "calibrated".
        interval: measured / predicted latency, lowest and highest; the default goes with `confidence`.
        memories: all memories; each unit's `path` names those that feed it.
        reserved: memory that other software owns.
        provenance: pattern of a figure's path -> its source; the most specific pattern wins.
    """

    schema_: Literal["qbert-opt/device@1"] = Field(alias="schema")
    id: Name
    name: Annotated[str, Field(min_length=1, max_length=200)]
    year: Annotated[int, Field(strict=True, ge=1990, le=2100)] | None = None
    automotive: bool = False
    confidence: Literal["theoretical", "partly-measured", "calibrated"]
    interval: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(ge=1, le=100)]] | None = None
    activation_bits: Literal[8, 16, 32]
    memories: Annotated[tuple[Memory, ...], Field(min_length=1)]
    units: Annotated[tuple[Unit, ...], Field(min_length=1)]
    formats: Annotated[tuple[Format, ...], Field(min_length=1)]
    power: Power
    reserved: tuple[Reserved, ...] = ()
    limits: Limits = Limits()
    provenance: dict[str, Provenance]

    def memory(self, memory_id: str) -> Memory:
        """Return the memory of that id."""
        return next(memory for memory in self.memories if memory.id == memory_id)

    def path(self, unit: Unit) -> tuple[Memory, ...]:
        """Return the memories that feed a unit, nearest first."""
        return tuple(self.memory(memory_id) for memory_id in unit.path)

    @property
    def scratchpad(self) -> Memory | None:
        """The memory that resident weights live in: the farthest scratchpad on the first unit's path."""
        pads = [memory for memory in self.path(self.units[0]) if memory.kind == "scratchpad"]
        return pads[-1] if pads else None

    @property
    def far_memory(self) -> Memory:
        """The memory that streamed weights come from: the last on the first unit's path."""
        return self.path(self.units[0])[-1]

    @property
    def latency_interval(self) -> tuple[float, float]:
        """Measured / predicted latency to expect, lowest and highest.

        The defaults follow what uncalibrated rooflines missed by on real processors: too fast by up to three
        times without calibration, by up to two with measured peaks.
        """
        default = {"theoretical": (0.5, 3.0), "partly-measured": (0.6, 2.0), "calibrated": (0.9, 1.1)}
        return self.interval or default[self.confidence]


_BUNDLED = resources.files(__package__).joinpath("devices")


def bundled_devices() -> tuple[str, ...]:
    """Return the names of the devices that ship with the package, sorted."""
    return tuple(sorted(entry.name[:-5] for entry in _BUNDLED.iterdir() if entry.name.endswith(".yaml")))


def load_device(name_or_path: str) -> Device:
    """Read a device: a path first, then a bundled name with or without `.yaml`.

    Raises:
        DeviceError: no such device, or a file that is not a legal and consistent description.
    """
    return device_from(read_device_file(_find(name_or_path)))


def device_from(root: Located) -> Device:
    """Validate what was read from a file.

    Raises:
        DeviceError: file:line: field, what was found, what is legal, what to do.
    """
    try:
        device = Device.model_validate(root.plain())
    except ValidationError as error:
        raise DeviceError(explain(error, root, Device)) from None
    check_consistency(device, root)
    return device


def sourced_share(device: Device) -> tuple[int, int]:
    """Return how many of the device's numeric figures have a source, and how many there are."""
    found: tuple[Figure, ...] = figures(device)
    return sum(figure.is_sourced for figure in found), len(found)


def _find(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.is_dir():
        raise DeviceError(f"{name_or_path}: found a folder; legal is a device file; name the file inside it")
    name = path.name.removesuffix(".yaml")
    names = bundled_devices()
    if name in names and path.name == name_or_path:
        return Path(str(_BUNDLED.joinpath(f"{name}.yaml")))
    near = difflib.get_close_matches(name, names, n=1)
    guess = f"did you mean {near[0]!r}?" if near else "give a path or one of these names"
    raise DeviceError(
        f"{name_or_path}: found no such file or bundled device; legal names are {', '.join(names)}; {guess}"
    )
