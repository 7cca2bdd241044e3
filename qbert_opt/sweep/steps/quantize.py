"""Write the quantized model of a plan, as `quantize` does."""

from __future__ import annotations

from pathlib import Path

from ...models.loading import load_model
from ...spec.allocation import read_allocation
from ...workflows.quantize import quantize_model
from ..artifacts import PLAN, QUANTIZED
from ..work import Work, read_given

KEPT = ()


def make(work: Work, folder: Path) -> None:
    """Write the quantized folder.

    Args:
        work: the plan, the model, and the calibration text of the scores.
        folder: where to write.

    Raises:
        InputFileError: the model or the text is not the one that was scored.
    """
    paths = work.task.paths
    quantize_model(
        load_model(paths["model"]),
        read_allocation(work.input("solve") / PLAN),
        read_given(paths["data"], work.task.options["data"]),
        folder / QUANTIZED,
        progress=work.progress,
    )
