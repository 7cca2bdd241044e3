"""The state of a training run, and the file it resumes from: safetensors with JSON in its metadata."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import InputFileError
from ..runtime.files import atomic_file

SCHEMA = "qbert-opt/training@1"
RUN = "run"
Tensors = dict[str, torch.Tensor]


class PhaseRecord(BaseModel):
    """Result of a phase.

    Attributes:
        phase: its name.
        updates: number of optimizer steps.
        train_loss: mean over the last tenth of its updates.
        held_loss: on held-out text, after the pass that was kept, or at the end of the phase if none was.
        kept: whether its result, or that of one of its passes, was better than the previous best state.
        cpu_seconds: CPU time of the run up to its end.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    phase: str
    updates: int
    train_loss: float
    held_loss: FiniteFloat
    kept: bool
    cpu_seconds: float


class Progress(BaseModel):
    """Contents of the state file besides the tensors.

    Attributes:
        fingerprint: hash of everything that the run depends on.
        epochs: passes over the text by step, as measured for `minutes` or as given.
        start_loss: on held-out text, before training.
        best_loss: lowest loss so far.
        best_phase: the phase that reached it; `start` before training.
        finished: completed phases.
        finished_steps: completed steps.
        updates: optimizer steps done in the current phase.
        cpu_seconds: CPU time so far.
    """

    model_config = ConfigDict(extra="ignore")

    document_schema: str = SCHEMA
    fingerprint: str
    epochs: dict[str, float] = {}
    start_loss: FiniteFloat
    best_loss: FiniteFloat
    best_phase: str = "start"
    finished: list[PhaseRecord] = []
    finished_steps: list[str] = []
    updates: int = 0
    cpu_seconds: float = 0.0


@dataclass(slots=True)
class RunState:
    """Progress with its tensors.

    Attributes:
        progress: counters and losses.
        student: the current learned tensors.
        best: the learned tensors with the lowest loss on held-out text.
        optimizer: optimizer state of the current phase, by `number.name`; empty between phases.
    """

    progress: Progress
    student: Tensors
    best: Tensors
    optimizer: Tensors = field(default_factory=dict)


def write_state(state: RunState, path: Path) -> None:
    """Write the state file atomically.

    Args:
        state: progress and tensors of a run.
        path: the file; an earlier one is replaced.

    Raises:
        UsageError: the disk is full, or the file cannot be written.
    """
    tensors = {
        f"{group}.{name}": tensor.detach().contiguous()
        for group in ("student", "best", "optimizer")
        for name, tensor in getattr(state, group).items()
    }
    with atomic_file(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={RUN: state.progress.model_dump_json()})
        except SafetensorError as error:
            raise OSError(str(error)) from None


def read_state(path: Path) -> RunState:
    """Read what `write_state` wrote.

    Args:
        path: the file.

    Raises:
        InputFileError: the file is missing or damaged.
    """
    groups: dict[str, Tensors] = {"student": {}, "best": {}, "optimizer": {}}
    try:
        with safe_open(path, framework="pt") as file:
            progress = Progress.model_validate_json((file.metadata() or {}).get(RUN, ""))
            for name in file.keys():  # noqa: SIM118  (no mapping)
                group, _, rest = name.partition(".")
                groups[group][rest] = file.get_tensor(name)
    except (SafetensorError, OSError, ValidationError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise InputFileError(f"{path}: is not a training state: {reason}. Remove it to train from the start.") from None
    return RunState(progress, groups["student"], groups["best"], groups["optimizer"])
