"""What a config writer must define: a plan in another tool's words, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from ..runtime.plugins import load_as
from ..spec.allocation import Allocation, PlannedMatrix
from ..spec.profiles import ModelProfile
from .offers import Carried, Offer


class ConfigTool(Protocol):
    """Another tool's config, one file of `configs/tools`.

    Attributes:
        TITLE: the tool's name as its owners write it.
        SUFFIXES: endings of its files, the usual one first.
        ROUNDING: how the tool will round the weights, in a few words.
        NOTES: how its user loads the file, and what to mind.
    """

    TITLE: str
    SUFFIXES: tuple[str, ...]
    ROUNDING: str
    NOTES: tuple[str, ...]

    def offers(self, matrix: PlannedMatrix) -> Iterable[Offer]:
        """Return every way in which the tool can store a matrix."""
        ...

    def write(self, plan: Allocation, carried: Sequence[Carried], suffix: str) -> str:
        """Return the config's text."""
        ...

    def read(self, text: str, profile: ModelProfile, suffix: str) -> dict[str, Offer]:
        """Read a config back: what it stores each named module as."""
        ...


def config_tool(name: str) -> ConfigTool:
    """Load a tool by the name that `export-config --to` takes; `llama.cpp` is `llama-cpp`.

    Raises:
        UsageError: there is no such tool.
    """
    return load_as("configs", name.replace(".", "-"), ConfigTool)
