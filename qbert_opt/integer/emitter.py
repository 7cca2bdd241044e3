"""What an emitter must define: one file of `emitters`, which writes a program for other tools."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from ..errors import UsageError
from ..runtime.frozen import Frozen
from ..runtime.plugins import available, load_as
from .program import Program


class Emitted(Frozen):
    """What an emitter wrote.

    Attributes:
        emitter: its name.
        files: names inside the folder.
        constant_bytes: of all constants as the artifact stores them.
        table_bytes: of the tables of nonlinear functions among them.
        ram_bytes: of the working memory for a text of `max_tokens`; None if the runtime allocates it.
        max_tokens: the longest text that the artifact takes.
    """

    emitter: str
    files: tuple[str, ...]
    constant_bytes: int
    table_bytes: int
    ram_bytes: int | None
    max_tokens: int


class Emitter(Protocol):
    """Writes a program as files that need nothing of this package."""

    def check_usable(self) -> None:
        """Refuse if a package that writing needs is missing.

        Raises:
            UsageError: names the package and how to install it.
        """
        ...

    def emit(self, program: Program, folder: Path, max_tokens: int) -> Emitted:
        """Write the files.

        Args:
            program: what to write.
            folder: exists; files of other names may be in it.
            max_tokens: the longest text that the artifact takes, at most the program's.
        """
        ...


def emitter(name: str) -> Emitter:
    """Load an emitter.

    Args:
        name: for example `c` or `onnx`.

    Raises:
        UsageError: there is no such one, or a package that it needs is missing.
    """
    if name not in available("emitters"):
        raise UsageError(f"`emit` {name or repr(name)}: legal: {', '.join(available('emitters'))}.")
    chosen = load_as("emitters", name, Emitter)
    chosen.check_usable()
    return chosen


def check_emission(names: Sequence[str], max_tokens: int | None, longest: int) -> None:
    """Refuse what cannot be emitted, before any work.

    Args:
        names: of the emitters.
        max_tokens: the longest text of the artifacts; None takes `longest`.
        longest: text that the program is proven for.

    Raises:
        UsageError: an emitter that does not exist or whose package is missing, or a longer text than the program's.
    """
    for name in names:
        emitter(name)
    if max_tokens is not None and not 1 <= max_tokens <= longest:
        raise UsageError(
            f"`emit_tokens` {max_tokens}: legal: 1 to {longest}, the tokens that the program is proven for."
        )
    if max_tokens is not None and not names:
        raise UsageError("`emit_tokens`: needs `emit`.")


def parse_emitters(text: str | None) -> tuple[str, ...]:
    """Read names of emitters, separated by commas.

    Args:
        text: for example `c,onnx`; None is none.
    """
    return () if text is None else tuple(dict.fromkeys(name.strip() for name in text.split(",")))
