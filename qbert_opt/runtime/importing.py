"""Import a module as soon as somebody else imports another: a plug-in's entry without paying for its host."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


def after(host: str, plugin: str) -> None:
    """Import `plugin` now if `host` is imported, else right after it."""
    if host in sys.modules:
        import_module(plugin)
    else:
        sys.meta_path.insert(0, _Waiting(host, plugin))


class _Waiting(MetaPathFinder):
    """Finds the host once, as everybody else would, with a loader that goes on to the plug-in."""

    def __init__(self, host: str, plugin: str) -> None:
        self._host, self._plugin = host, plugin

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._host:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Then(spec.loader, self._plugin)
        return spec


class _Then(Loader):
    """Loads as another loader does, then imports the plug-in."""

    def __init__(self, loader: Loader, plugin: str) -> None:
        self._loader, self._plugin = loader, plugin

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader  # whoever asks for the source later finds the real one
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        import_module(self._plugin)
