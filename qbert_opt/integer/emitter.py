"""The protocol of emitters, which write a program for other tools; each is one file in `emitters`."""

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
        emitter: name of the emitter.
        files: names of the files inside the folder.
        constant_bytes: bytes of all constants as the artifact stores them.
        table_bytes: bytes of the tables of nonlinear functions, which are part of `constant_bytes`.
        ram_bytes: bytes of working memory for a text of `max_tokens`; None if the runtime allocates it.
        max_tokens: tokens of the longest text that the artifact is written for.
    """

    emitter: str
    files: tuple[str, ...]
    constant_bytes: int
    table_bytes: int
    ram_bytes: int | None
    max_tokens: int


class Emitter(Protocol):
    """Writes a program as files that do not need this package."""

    def check_usable(self) -> None:
        """Check that the packages that writing needs are installed.

        Raises:
            UsageError: a package is missing; says which, and how to install it.
        """
        ...

    def emit(self, program: Program, folder: Path, max_tokens: int) -> Emitted:
        """Write the files.

        Args:
            program: the program to write.
            folder: an existing folder, possibly with other files in it.
            max_tokens: tokens of the longest text to write for, at most the program's.
        """
        ...


def emitter(name: str) -> Emitter:
    """Load an emitter.

    Args:
        name: name of the emitter, for example `c` or `onnx`.

    Raises:
        UsageError: no emitter has this name, or a package that it needs is missing.
    """
    if name not in available("emitters"):
        raise UsageError(f"`emit` {name or repr(name)}: legal: {', '.join(available('emitters'))}.")
    chosen = load_as("emitters", name, Emitter)
    chosen.check_usable()
    return chosen


def check_emission(names: Sequence[str], max_tokens: int | None, longest: int) -> None:
    """Refuse a request that no emitter can fulfil, before any work is done.

    Args:
        names: names of the emitters.
        max_tokens: tokens of the longest text to write for; None means `longest`.
        longest: tokens of the longest text that the program is proven for.

    Raises:
        UsageError: an emitter does not exist or lacks a package, or `max_tokens` is not from 1 to `longest` or is given
            without emitters.
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
        text: for example `c,onnx`; None gives no names.
    """
    return () if text is None else tuple(dict.fromkeys(name.strip() for name in text.split(",")))
