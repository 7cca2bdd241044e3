"""Files that a verb writes are none of those that it reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import UsageError

OUTPUTS = ("out", "output", "bundle", "plot", "roofline", "timeline")  # parameters of verbs that name files to write


def check_outputs(parameters: Mapping[str, Any]) -> None:
    """Refuse outputs that are inputs or other outputs, by whatever name: links count too.

    Args:
        parameters: of a verb, by name.

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
    """Yield what may be paths: texts, and each text of a list."""
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _paths(part)
    elif isinstance(value, (str, Path)) and str(value):
        yield Path(value)


def _same(path: Path, other: Path) -> bool:
    with suppress(OSError, ValueError):  # what is no path: a name too long, a null character
        return path.samefile(other)
    return False
