"""Measure a finished model on held-out text against the float model, as `evaluate --json` does."""

from __future__ import annotations

import json
from pathlib import Path

from ...serving.measuring import evaluation_document, measure_folder
from ..artifacts import EXPORTED, MEASURED, QUANTIZED
from ..work import Work, read_given

KEPT = ()


def make(work: Work, folder: Path) -> None:
    """Write `measured.json`; an exported model is measured and timed in its engine.

    Args:
        work: the quantized, trained or exported folder; the model and the held-out text.
        folder: where to write.

    Raises:
        InputFileError: the folder is damaged, or the text has changed since the sweep began.
    """
    paths = work.task.paths
    source = work.input("quantize", "recover", "export")
    subject = source / (EXPORTED if "export" in work.task.inputs else QUANTIZED)
    texts = read_given(paths["test_data"], work.task.options["test_data"])
    measured = measure_folder(str(subject), texts, reference=paths["model"])
    document = evaluation_document(measured, paths["model"], texts)
    (folder / MEASURED).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
