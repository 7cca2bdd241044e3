"""What a config writer must define: how to convert a plan to another tool's config, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from ..runtime.plugins import load_as
from ..spec.allocation import Allocation
from ..spec.planned import PlannedMatrix
from ..spec.profiles import ModelProfile
from .offers import Carried, Offer


class ConfigTool(Protocol):
    """Another tool's config, one file of `configs/tools`.

    Attributes:
        TITLE: official name of the tool.
        SUFFIXES: file extensions of its configs, the default first.
        ROUNDING: how the tool rounds weights, in a few words.
        NOTES: how to load the file, and what to be aware of.
    """

    TITLE: str
    SUFFIXES: tuple[str, ...]
    ROUNDING: str
    NOTES: tuple[str, ...]

    def offers(self, matrix: PlannedMatrix) -> Iterable[Offer]:
        """Return every format in which the tool can store a matrix.

        Args:
            matrix: its shape, and what the plan stores it as.
        """
        ...

    def write(self, plan: Allocation, carried: Sequence[Carried], suffix: str) -> str:
        """Return the text of the config for a plan.

        Args:
            plan: what is exported.
            carried: the offer that holds each matrix; matrices without one stay in floating point.
            suffix: ending of the file, one of `SUFFIXES`.
        """
        ...

    def read(self, text: str, profile: ModelProfile, suffix: str) -> dict[str, Offer]:
        """Read a config: the format of each module that it names.

        Args:
            text: the whole file.
            profile: of the model that the config is for.
            suffix: ending of the file, one of `SUFFIXES`.

        Raises:
            InputFileError: no config of this tool.
        """
        ...


def config_tool(name: str) -> ConfigTool:
    """Load a tool by the name that `export-config --to` takes; `llama.cpp` is `llama-cpp`.

    Args:
        name: for example `gptqmodel`; dots are read as dashes.

    Raises:
        UsageError: there is no such tool.
    """
    return load_as("configs", name.replace(".", "-"), ConfigTool)
