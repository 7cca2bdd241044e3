"""Open an engine's files so that whatever its library raises is one line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..errors import InputFileError, QbertOptError, UsageError
from .session import Activations, Arrays, Engine, Session

OUT_OF_MEMORY = ("bad_alloc", "out of memory", "failed to allocate", "cannot allocate", "could not allocate")
MAX_SHOWN = 200  # characters of a library's message


def open_session(
    module: Engine, folder: Path, threads: int | None = None, activations: Activations = "int8"
) -> Session:
    """Open written files in an engine; the session refuses in one line too.

    Args:
        module: the engine.
        folder: as `export` wrote it; for an engine without a format, the quantized folder itself.
        threads: processor threads; None lets the engine choose.
        activations: how inputs of products are held.

    Raises:
        InputFileError: the engine's library cannot open the files; running them raises it likewise.
        UsageError: there is not enough memory.
    """
    with _refusing(module, folder, "open"):
        session = module.open_model(folder, threads, activations)
    return _Refusing(module, folder, session)


class _Refusing:
    """A session whose library's errors name the folder."""

    def __init__(self, module: Engine, folder: Path, session: Session) -> None:
        self._module, self._folder, self._session = module, folder, session

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        with _refusing(self._module, self._folder, "run"):
            return self._session.run(inputs)


@contextmanager
def _refusing(module: Engine, folder: Path, what: str) -> Iterator[None]:
    """Turn errors of an engine's library, which have no common base class, into one line."""
    try:
        yield
    except (QbertOptError, MemoryError):
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = " ".join(lines)[:MAX_SHOWN].rstrip(". ") or type(error).__name__
        name = module.__name__.rpartition(".")[2] if hasattr(module, "__name__") else type(module).__name__
        if any(words in reason.lower() for words in OUT_OF_MEMORY):
            raise UsageError(
                f"{folder}: not enough memory to {what} it in {name} ({reason}). Free some, or take a smaller model."
            ) from None
        raise InputFileError(
            f"{folder}: {name} cannot {what} its files: {reason}. Export the model again with the engine that is "
            "installed here."
        ) from None
