"""Score every choice of every matrix on calibration text, as `sensitivity` does."""

from __future__ import annotations

from pathlib import Path

from ...errors import InputFileError
from ...quantization.calibration import CalibrationPlan, method_grid
from ...runtime import locks
from ...spec.activations import parse_activation_bits
from ...spec.forms import parse_bits, parse_forms
from ...spec.groupings import parse_groupings
from ...spec.scores import write_scores
from ...workflows.score import score_model
from ..artifacts import SCORES
from ..content import folder_sha256
from ..work import Work, read_given

KEPT = ("scores.json.partial",)


def make(work: Work, folder: Path) -> None:
    """Write `scores.json`; choices that a killed attempt scored are not scored again.

    Args:
        work: options of `sensitivity`; the model and its calibration text.
        folder: where to write.

    Raises:
        InputFileError: the model cannot be read, or the model or the text has changed since the sweep began.
    """
    options, paths = work.task.options, work.task.paths
    if folder_sha256(paths["model"]) != options["model"]:
        raise InputFileError(f"{paths['model']}: changed while the sweep was running. Start the sweep again.")
    forms = None if options["forms"] is None else parse_forms(options["forms"])
    partial = folder / KEPT[0]
    try:
        table = score_model(
            paths["model"],
            read_given(paths["data"], options["data"]),
            metric=options["metric"],
            method=options["method"],
            calibration=CalibrationPlan(options["calibration_samples"], options["scoring_samples"], options["seed"]),
            forms=forms,
            activation_bits=parse_activation_bits(options["activation_bits"]),
            choices=method_grid(
                options["method"], parse_bits(options["bits"]), parse_groupings(options["groupings"]), forms
            ),
            max_tokens=options["max_tokens"],
            checkpoint=partial,
            progress=work.progress,
        )
    finally:
        locks.release(partial)
    write_scores(table, folder / SCORES)
