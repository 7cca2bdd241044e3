"""The interface of a reader of one data layout (plug-in kind `readers`)."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ..runtime.plugins import available, load_as


class Reader(Protocol):
    """A file in `data/readers`, for a layout that is more than one table."""

    def reads(self, path: Path) -> bool:
        """Return whether a path has this layout, by names and the first bytes of files only; never raises.

        Args:
            path: a file or folder, which need not exist.
        """

    def read(
        self, path: Path, *, split: str | None, label_column: str | None
    ) -> tuple[list[tuple[str, ...]], list[str] | None]:
        """Read samples.

        Args:
            path: has this layout.
            split: name of a split, for example `test`; None if the path is a single split.
            label_column: which labels to read, by the layout's own names; None reads its default labels.

        Returns:
            Texts of one or two strings each, and a label for each text or None if the layout has no labels.

        Raises:
            InputFileError: the file is malformed.
            UsageError: there is no such split or label column.
        """


def reader_of(path: Path) -> tuple[str, Reader] | None:
    """Return the name and reader of a path's layout; None for a table or a folder of splits.

    Args:
        path: a file or folder, which need not exist.

    Raises:
        UsageError: a plug-in is broken.
    """
    for name in available("readers"):
        reader = load_as("readers", name, Reader)
        if reader.reads(path):
            return name, reader
    return None
