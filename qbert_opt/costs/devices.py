"""Load devices by name or file; errors are this package's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import hwmodels

from ..errors import DeviceError

if TYPE_CHECKING:
    from hwmodels import Device


def load_device(name: str) -> Device:
    """Load a device description.

    Args:
        name: path of a YAML file, or the name of a bundled or installed device, for example `car-soc`.

    Raises:
        DeviceError: there is no such device, or its description is invalid; names file, field, value and what is legal.
    """
    with device_errors():
        return hwmodels.load_device(name)


@contextmanager
def device_errors() -> Iterator[None]:
    """Convert an error of `hwmodels` to this package's `DeviceError`."""
    try:
        yield
    except DeviceError:
        raise
    except hwmodels.DeviceError as error:
        raise DeviceError(str(error)) from None
