"""A reader of one data layout: what a plug-in of the kind `readers` defines."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ..runtime.plugins import available, load_as


class Reader(Protocol):
    """A file in `data/readers`, for a layout that is more than one table."""

    def reads(self, path: Path) -> bool:
        """Tell whether a path has this layout; looks at names and beginnings only, and never raises.

        Args:
            path: a file or folder, which need not exist.
        """

    def read(
        self, path: Path, *, split: str | None, label_column: str | None
    ) -> tuple[list[tuple[str, ...]], list[str] | None]:
        """Read samples.

        Args:
            path: has this layout.
            split: name of a split, for example `test`; None where the path is one split itself.
            label_column: which labels, in the words of the layout; None is its usual ones.

        Returns:
            Texts, each with one or two parts, and as many labels; None where the layout has none.

        Raises:
            InputFileError: the file is malformed.
            UsageError: no such split or labels.
        """


def reader_of(path: Path) -> tuple[str, Reader] | None:
    """Return name and reader of a path's layout; None for a table or a folder of splits.

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
