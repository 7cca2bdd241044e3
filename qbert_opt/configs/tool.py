"""What a config writer must define: how to convert a plan to another tool's config, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from hwmodels import YamlError, parse_yaml

from ..errors import InputFileError, UsageError
from ..runtime.input_files import parse_json
from ..runtime.plugins import available, load_as
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

    A tool whose `.json` or `.yaml` file is a list and not an object says so by `OUTERMOST = list`, and one whose config
    has the embedding tables too by `CARRIES_TABLES = True`. `DECODERS = True` says that the config holds for decoders
    too, and `TRANSPOSED = True` that the tool also quantizes layers that store their weight transposed, as GPT-2's do.
    A tool that rounds inputs too says to which widths by `INPUT_BITS`; a plan with other widths is refused.
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

    def read(self, content: Any, profile: ModelProfile, suffix: str) -> dict[str, Offer]:
        """Read a config: the format of each module that it names.

        Args:
            content: the parsed object of a `.json` or `.yaml` file, see `parse_config`; the text of any other.
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


def parse_config(text: str, path: Path, outermost: type = dict) -> Any:
    """Parse the text of a config strictly, according to its file extension.

    Args:
        text: the whole file.
        path: the file, for its extension and for messages.
        outermost: what the whole is, see `ConfigTool`.

    Returns:
        The object of a `.json` or `.yaml` file (YAML 1.2, keys are text); the text itself of any other.

    Raises:
        InputFileError: no JSON or YAML, a duplicate key, a number that is not finite, or not what the whole is.
    """
    if path.suffix == ".json":
        content = parse_json(text, path)
    elif path.suffix == ".yaml":
        try:
            content = parse_yaml(text, str(path)).plain()
        except YamlError as error:
            raise InputFileError(f"{error}.") from None
    else:
        return text
    if not isinstance(content, outermost):
        wanted = "an object with named fields" if outermost is dict else "a list"
        raise InputFileError(f"{path}: holds a {type(content).__name__}, not {wanted}.")
    return content


def check_takes(tool: ConfigTool, profile: ModelProfile) -> None:
    """Refuse a decoder for a tool whose config would not say how to quantize it.

    Args:
        tool: a module of `configs/tools`.
        profile: the model.

    Raises:
        UsageError: names the tool, and which others there are.
    """
    if not profile.causal:
        return
    needed = ["DECODERS", *(["TRANSPOSED"] if any(matrix.transposed for matrix in profile.matrices) else [])]
    if all(getattr(tool, flag, False) for flag in needed):
        return
    what = "a decoder whose layers store transposed weights" if getattr(tool, "DECODERS", False) else "a decoder"
    others = [name for name in available("configs") if all(getattr(config_tool(name), flag, False) for flag in needed)]
    raise UsageError(f"{tool.TITLE}: {profile.name} is {what}; legal for it: {', '.join(others)}.")
