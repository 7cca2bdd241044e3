"""Plug-ins: one file in a folder of this package, or an entry point of another; named without importing them.

A plug-in's name is its file's name with `-` for `_`, or its entry point's name. The entry-point group of a kind is
`qbert_opt.KIND`, for example `qbert_opt.metrics`. What a plug-in of each kind must define is a `Protocol` in the room
that uses it.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

from ..errors import UsageError

FOLDERS: Mapping[str, str] = {
    "metrics": "scoring.metrics",
    "quantizers": "quantization.methods",
    "formats": "formats.writers",
    "engines": "engines.backends",
    "benches": "device_profiling.benches",
    "configs": "configs.tools",
    "readers": "data.readers",
    "training_quantizers": "training.quantizers",
    "training_steps": "training.steps",
    "training_losses": "training.losses",
    "block_errors": "training.block_errors",
    "nonlinearities": "integer.nonlinearities",
    "emitters": "integer.emitters",
}
"""Folder of each kind of plug-in, inside this package."""

Plugin = TypeVar("Plugin")

_PACKAGE = __package__.rsplit(".", 1)[0]


def available(kind: str) -> tuple[str, ...]:
    """Return the names of all plug-ins of a kind, sorted; imports none of them.

    Args:
        kind: a key of `FOLDERS`.
    """
    return tuple(sorted({*_bundled(kind), *_installed(kind)}))


def summaries(kind: str) -> dict[str, str]:
    """Return a one-line summary of each plug-in of a kind, by name; imports none of them.

    A bundled plug-in's summary is the first line of its docstring, an installed one's is the package it comes from.

    Args:
        kind: a key of `FOLDERS`.
    """
    folder = _folder(kind)
    lines: dict[str, str] = {}
    for name in _bundled(kind):
        source = folder.joinpath(f"{name.replace('-', '_')}.py").read_text(encoding="utf-8")
        lines[name] = (ast.get_docstring(ast.parse(source)) or "").split("\n", 1)[0]
    for name, points in _installed(kind).items():
        lines[name] = f"installed by {' and '.join(map(_owner, points))}"
    return {name: lines[name] for name in sorted(lines)}


def load(kind: str, name: str) -> Any:
    """Import one plug-in.

    Args:
        kind: a key of `FOLDERS`.
        name: one of `available(kind)`.

    Raises:
        UsageError: no such plug-in, two of that name, or one that cannot be imported.
    """
    installed = _installed(kind)
    bundled = _bundled(kind)
    if name in installed:
        owners = [_owner(point) for point in installed[name]] + (["qbert-opt"] if name in bundled else [])
        if len(owners) > 1:
            raise UsageError(f"{kind}: {name!r} is defined by {' and '.join(owners)}. Uninstall one of them.")
        [point] = installed[name]
        try:
            return point.load()
        except Exception as error:
            raise UsageError(
                f"{kind}: plug-in {name!r} of {owners[0]} cannot be imported from {point.value}: "
                f"{type(error).__name__}: {error}. Reinstall or remove that package."
            ) from error
    if name not in bundled:
        raise UsageError(f"{kind}: unknown {name!r}. Available: {', '.join(available(kind))}.")
    return importlib.import_module(f"{_PACKAGE}.{FOLDERS[kind]}.{name.replace('-', '_')}")


def load_as(kind: str, name: str, protocol: type[Plugin]) -> Plugin:
    """Import one plug-in and check that it defines what its kind requires.

    Args:
        kind: a key of `FOLDERS`.
        name: one of `available(kind)`.
        protocol: the Protocol of the kind.

    Raises:
        UsageError: as `load`, or a plug-in that lacks a required member; names the missing ones.
    """
    plugin: Plugin = load(kind, name)
    missing = [member for member in _members(protocol) if not hasattr(plugin, member)]
    if missing:
        raise UsageError(f"{kind}: plug-in {name!r} does not define {', '.join(missing)}. See docs/plug-ins.md.")
    return plugin


def _members(protocol: type) -> list[str]:
    names: dict[str, None] = {}
    for base in reversed(protocol.__mro__):
        if getattr(base, "_is_protocol", False):
            names |= dict.fromkeys(vars(base).get("__annotations__", {}))
            names |= dict.fromkeys(name for name in vars(base) if not name.startswith("_"))
    return list(names)


def forget_installed() -> None:
    """Look for installed plug-ins again: a package was installed while this process runs."""
    _installed.cache_clear()


def _folder(kind: str) -> Path:
    return Path(__file__).parent.parent.joinpath(*FOLDERS[kind].split("."))


def _bundled(kind: str) -> frozenset[str]:
    modules = pkgutil.iter_modules([str(_folder(kind))])
    return frozenset(module.name.replace("_", "-") for module in modules if not module.name.startswith("_"))


@cache  # looking through every installed package takes 20 ms
def _installed(kind: str) -> dict[str, list[EntryPoint]]:
    """Entry points of a kind by name; the same one seen twice on the path counts once."""
    points: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=f"{_PACKAGE}.{kind}"):
        same_name = points.setdefault(point.name, [])
        if all(_owner(other) != _owner(point) for other in same_name):
            same_name.append(point)
    return points


def _owner(point: EntryPoint) -> str:
    return "an unnamed package" if point.dist is None else point.dist.name
