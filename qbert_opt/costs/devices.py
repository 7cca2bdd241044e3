"""Load devices by name or file, and raise this package's errors instead of those of `hwmodels`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import hwmodels

from ..errors import DeviceError, UsageError
from ..runtime.plugins import available

if TYPE_CHECKING:
    from hwmodels import Device


def load_device(name: str) -> Device:
    """Load a device description.

    Args:
        name: path of a YAML file, or the name of a bundled or installed device, for example `car-soc`.

    Raises:
        DeviceError: there is no such device, or its description is invalid or lists an unknown engine; names file,
            field, value and what is legal.
    """
    with device_errors():
        device = hwmodels.load_device(name)
    unknown = [engine for engine in device.engines or () if engine not in available("engines")]
    if unknown:
        legal = ", ".join(available("engines"))
        raise DeviceError(f"{name}: engines: found {unknown[0]!r}; legal are {legal}; correct it")
    return device


def given_device(device: Device | str) -> Device:
    """Return a device that was given as an object, by name or by path.

    Args:
        device: a loaded device, or what `load_device` takes.

    Raises:
        DeviceError: as `load_device`.
        UsageError: it is neither a text nor a device.
    """
    if isinstance(device, str):
        return load_device(device)
    if not isinstance(device, hwmodels.Device):
        raise UsageError(f"`device`: {device!r:.80} is not a device. Give a name, a YAML file or a loaded device.")
    return device


def check_engine(name: str, device: Device) -> None:
    """Check that a device lists an engine; a device without a list accepts any.

    Args:
        name: name of the engine.
        device: the hardware.

    Raises:
        UsageError: the device lists other engines; the message names them.
    """
    if device.engines is not None and name not in device.engines:
        legal = ", ".join(device.engines) or "none that qbert-opt knows"
        raise UsageError(f"`engine` {name}: does not run on {device.id}. Engines of {device.id}: {legal}.")


@contextmanager
def device_errors() -> Iterator[None]:
    """Convert an error of `hwmodels` to this package's `DeviceError`."""
    try:
        yield
    except DeviceError:
        raise
    except hwmodels.DeviceError as error:
        raise DeviceError(str(error)) from None
