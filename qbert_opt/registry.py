"""A folder is a registry: the file's name is the plug-in's name, found without importing it."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

from .errors import UsageError


def available(folder: str) -> tuple[str, ...]:
    """Return the names in a folder of this package, for example `available("metrics")`; imports none of them."""
    path = Path(__file__).parent / folder
    return tuple(
        sorted(
            info.name.replace("_", "-") for info in pkgutil.iter_modules([str(path)]) if not info.name.startswith("_")
        )
    )


def load(folder: str, name: str) -> ModuleType:
    """Import one plug-in by name.

    Raises:
        UsageError: no such file; names those there are.
    """
    if name not in available(folder):
        raise UsageError(f"{folder}: unknown {name!r}. Available: {', '.join(available(folder))}.")
    return importlib.import_module(f"{__package__}.{folder.replace('/', '.')}.{name.replace('-', '_')}")
