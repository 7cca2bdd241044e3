"""Write a quantized model as an engine's files and compare the answers with PyTorch's, as `export` does."""

from __future__ import annotations

from pathlib import Path

from ...workflows.export import export_model
from ..artifacts import EXPORTED, QUANTIZED
from ..work import Work

KEPT = ()


def make(work: Work, folder: Path) -> None:
    """Write the engine's folder.

    Args:
        work: the quantized or trained folder; the engine.
        folder: where to write.

    Raises:
        InputFileError: the engine's answers do not agree with PyTorch's.
        UsageError: the engine is not installed.
    """
    export_model(
        work.input("quantize", "recover") / QUANTIZED,
        work.task.options["engine"],
        folder / EXPORTED,
        progress=work.progress,
    )
