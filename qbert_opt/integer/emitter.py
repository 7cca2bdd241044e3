"""What an emitter must define: one file of `emitters`, which writes a program for other tools."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..errors import UsageError
from ..runtime.plugins import available, load_as
from .program import Program


@dataclass(frozen=True, slots=True)
class Emitted:
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
        raise UsageError(f"`emit` {name}: legal: {', '.join(available('emitters'))}.")
    chosen = load_as("emitters", name, Emitter)
    chosen.check_usable()
    return chosen


def emit_all(program: Program, names: tuple[str, ...], folder: Path, max_tokens: int | None) -> tuple[Emitted, ...]:
    """Write a program with several emitters.

    Args:
        program: what to write.
        names: of the emitters.
        folder: that receives the files.
        max_tokens: the longest text; None takes the program's.

    Raises:
        UsageError: an unknown emitter, a missing package, or a text longer than the program is proven for.
    """
    longest = program.max_tokens if max_tokens is None else max_tokens
    if not 1 <= longest <= program.max_tokens:
        raise UsageError(f"`emit_tokens` {longest}: the program is proven for texts of 1 to {program.max_tokens} tokens.")
    return tuple(emitter(name).emit(program, folder, longest) for name in names)
