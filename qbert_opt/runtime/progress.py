"""How long work reports its progress."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A callable that is told how far a piece of work is."""

    def __call__(self, done: int, total: int, what: str, /) -> None:
        """Report progress.

        Args:
            done: steps finished.
            total: steps in all.
            what: what goes on now, in a few words.
        """
        ...


def silent(done: int, total: int, what: str, /) -> None:
    """Report nothing; see `Progress`.

    Args:
        done: not used.
        total: not used.
        what: not used.
    """
