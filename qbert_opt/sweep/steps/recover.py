"""Train a quantized model to match the outputs of the float model, as `recover` does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...models.loading import load_model
from ...training.recipes import recipe
from ...training.settings import RecoverySettings
from ...workflows.recover import STATE_SUFFIX, TEACHER_SUFFIX, recover
from ..artifacts import QUANTIZED
from ..work import Work, read_given

KEPT = (f"{QUANTIZED}{STATE_SUFFIX}", f"{QUANTIZED}{TEACHER_SUFFIX}*", f".{QUANTIZED}*")


def make(work: Work, folder: Path) -> None:
    """Write the trained folder; training resumes from the last state of a killed attempt.

    Args:
        work: the quantized folder, the model and the training texts.
        folder: where to write.

    Raises:
        InputFileError: the model or the text has changed since the sweep began.
    """
    options, paths = work.task.options, work.task.paths
    settings = RecoverySettings() if options["recipe"] is None else recipe(options["recipe"])
    recover(
        load_model(paths["model"]),
        work.input("quantize") / QUANTIZED,
        [read_given(path, sha256) for path, sha256 in zip(paths["training"], options["training"], strict=True)],
        folder / QUANTIZED,
        settings=replace(settings, seed=options["seed"]),
        minutes=options["minutes"],
    )
