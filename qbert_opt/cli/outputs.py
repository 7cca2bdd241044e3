"""Checks that a verb's outputs can be written and that none of them is one of its inputs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import UsageError

# parameters of verbs that name what they write
OUTPUTS = ("out", "output", "bundle", "plans", "plot", "roofline", "timeline")
NEW_FOLDERS = (
    "export",
    "fine-tune",
    "integer",
    "quantize",
    "recover",
    "trim-vocabulary",
)  # verbs that write a folder instead of a file
RESUMED_FOLDERS = ("optimize", "sweep")
FOLDER_OPTIONS = ("bundle", "plans")  # options that name a new folder, whatever the verb


def check_kind(verb: str, option: str, output: str | Path) -> None:
    """Refuse an output that cannot be written, or is a folder where a file is written, or the reverse.

    Args:
        verb: name of the command.
        option: its parameter that names the output.
        output: what it will write.

    Raises:
        UsageError: says what to give instead.
    """
    from ..runtime.files import check_folder, check_free

    target = Path(output)
    main_output = option in ("out", "output")
    if option in FOLDER_OPTIONS or (main_output and verb in NEW_FOLDERS):
        check_free(target)
        return
    check_folder(target)
    if main_output and verb in RESUMED_FOLDERS:
        if target.exists() and not target.is_dir():
            raise UsageError(f"{target}: is a file; this verb writes a folder. Give another name.")
    elif str(output).endswith(os.sep) or (target.exists() and not target.is_file()):
        raise UsageError(f"{target}: is a folder or a device, which a file cannot replace. Give a file name.")


def check_outputs(parameters: Mapping[str, Any]) -> None:
    """Refuse outputs that are also inputs or other outputs, under the same name or through links.

    Args:
        parameters: parameters of a verb, by name.

    Raises:
        UsageError: names the output.
    """
    written: dict[Path, str] = {}
    for output in OUTPUTS:
        for path in _paths(parameters.get(output)):
            if (other := written.setdefault(path.absolute(), output)) != output:
                raise UsageError(f"`{output}` {path}: is also where `{other}` is written. Give another name.")
            inputs = (value for name, value in parameters.items() if name not in OUTPUTS)
            if path.is_file() and any(_same(path, given) for value in inputs for given in _paths(value)):
                raise UsageError(f"`{output}` {path}: is also an input, which would be lost. Give another name.")


def _paths(value: object) -> Iterator[Path]:
    """Yield values that may be paths: texts, and each text of a list."""
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _paths(part)
    elif isinstance(value, (str, Path)) and str(value):
        yield Path(value)


def _same(path: Path, other: Path) -> bool:
    with suppress(OSError, ValueError):  # not a path: the name is too long or has a null character
        return path.samefile(other)
    return False
