"""Train the codes and ranges of a plan or a quantized folder, and write a quantized folder of the same size."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from ..checkpoint.reader import is_quantized, load_quantized, read_matrices
from ..checkpoint.record import PLAN, WEIGHTS, Training, as_planned
from ..checkpoint.writer import write_checkpoint
from ..checkpoint.written import WrittenModel, measure_folder
from ..data.texts import LabeledTexts
from ..errors import InputFileError, UsageError
from ..integer.compiler import check_planned
from ..integer.families import encoder_of
from ..integer.torch_functions import IntegerFunctions, integer_functions
from ..integer.ways import parse_ways
from ..models.batches import TokenBatch, tokenize
from ..models.loading import LoadedModel
from ..models.outputs import collect
from ..models.targets import Targets
from ..quantization.calibration import MatrixQuantizer, quantized_matrices
from ..quantization.quantized_matrix import QuantizedMatrix
from ..runtime.distributed import Processes
from ..runtime.files import check_free
from ..runtime.locks import sole_writer
from ..runtime.manifest import file_sha256
from ..spec.allocation import Allocation, read_allocation
from ..training.blocks import block_names
from ..training.loop import Held, Tell, TrainingRun
from ..training.objective import points_of
from ..training.run_state import PhaseRecord, read_state
from ..training.schedule import epochs_for
from ..training.settings import RecoverySettings
from ..training.student import Student
from ..training.teacher import Teacher
from ..training.teacher_cache import StoringTeacher
from ..training.updates import check_shared
from .quantize import READ_BACK_TEXTS, kept_texts, read_back, writing_quantizer
from .training_text import labels_of, split_texts

NEAREST = "rtn"
CALIBRATION_BATCHES = 8  # of training text, for the ranges of integer functions
TEACHER_SUFFIX = ".teacher"
STATE_SUFFIX = ".training.safetensors"


@dataclass(frozen=True, slots=True)
class Recovered:
    """Result of recovery training. Losses are measured on held-out training text, in `loss_unit`.

    Attributes:
        written: the written folder.
        plan: its plan.
        phases: how each phase of training ended.
        start_loss: loss of the quantizer's codes.
        best_loss: loss of the written model.
        best_phase: phase in which it was reached.
        loss_unit: unit of both losses.
        num_texts: number of training texts.
        num_held: number of held-out texts, which choose the best state.
        epochs: passes over the training texts by step; a second run with these gives the same result.
        cpu_seconds: CPU time of training.
        stopped: why training ended early; None if it did not.
        teacher_bytes: size of the teacher's states that were stored on disk; None if none were.
    """

    written: WrittenModel
    plan: Allocation
    phases: tuple[PhaseRecord, ...]
    start_loss: float
    best_loss: float
    best_phase: str
    loss_unit: str
    num_texts: int
    num_held: int
    epochs: dict[str, float]
    cpu_seconds: float
    stopped: str | None
    teacher_bytes: int | None = None


def recover(
    loaded: LoadedModel,
    source: str | Path | Allocation,
    data: Sequence[LabeledTexts],
    output: str | Path,
    *,
    settings: RecoverySettings | None = None,
    minutes: float | None = None,
    progress: Tell = lambda done, total, what: None,
    phase_over: Callable[[PhaseRecord, LoadedModel], None] = lambda record, student: None,
    processes: Processes | None = None,
) -> Recovered:
    """Train a plan's codes and ranges to match the float model, and write the folder; labels are not needed.

    A run that was killed resumes from its state file next to `output` and ends with the same result. Ctrl-C and a loss
    that is not finite end the training; the best state so far is written.

    Args:
        loaded: the float model that the plan belongs to; it is the teacher, with all of its layers and heads.
        source: a quantized folder to start from, or a plan, whose matrices are quantized first.
        data: training texts, used together; if a plan's quantizer needs text, they include the text of its scores.
        output: folder to write.
        settings: steps, passes, learning rates, seed.
        minutes: approximate training time, instead of the settings' epochs.
        progress: called with work done, total work, and the current step.
        phase_over: called after each phase of training with the student's best state so far.
        processes: those that train together, see `runtime.distributed`; the first one writes. By default one.

    Returns:
        The written folder, with losses before and after training.

    Raises:
        InputFileError: the plan or folder is for another model, there are too few texts, labels are missing or unknown
            to the head, or the state file is damaged.
        UsageError: invalid minutes, a state file of another run, steps that the model does not support, or functions
            in integers for a model or plan without an integer form.
    """
    settings, team = settings or RecoverySettings(), processes or Processes()
    check_shared(settings.batches_per_update, team)
    _check_minutes(minutes, settings)
    check_free(Path(output))  # before the work starts
    held_texts, texts = split_texts(data, settings)
    shorter, plan, start, others, origin = _start(loaded, source, data, settings)
    kind = loaded.head.kind
    batches = tokenize(loaded.tokenizer, texts.texts, batch_size=settings.batch_size, kind=kind)
    held_batches = tokenize(loaded.tokenizer, held_texts.texts, batch_size=settings.batch_size, kind=kind)
    held = Held(held_batches, collect(loaded.head, loaded.model, held_batches))
    student = Student(
        shorter.model, plan, start, others=others, tables=settings.tables, quantizer=settings.quantizer,
        functions=_functions(shorter, plan, batches, settings),
    )  # fmt: skip
    file = Path(f"{output}{STATE_SUFFIX}")
    fingerprint = _fingerprint(plan, origin, texts, settings, minutes)
    labels = labels_of(loaded, texts, batches, settings)
    with sole_writer(file) if team.rank == 0 else nullcontext():
        resumed = file.exists()
        if resumed:
            _check_same_run(file, fingerprint)
        teacher = _teacher(loaded, plan, batches, labels, settings, Path(f"{output}{TEACHER_SUFFIX}"), fingerprint)
        if minutes is not None and not resumed:
            settings = replace(settings, epochs=epochs_for(minutes, student, teacher, settings, team))
        run = TrainingRun(
            student, teacher, held, settings, fingerprint=fingerprint, file=file, tell=progress, team=team,
            phase_over=lambda record: phase_over(record, replace(shorter, model=student.plain())),
        )  # fmt: skip
        run.go()
        state = run.state.progress
        training = Training(
            method=settings.method,
            data=texts.name,
            data_sha256=texts.sha256,
            num_texts=len(texts),
            drawn_from=tuple(part.sha256 for part in data),
            steps=sum(record.updates for record in state.finished) + state.updates,
            seed=settings.seed,
        )
        plan = plan.model_copy(update={"activations": student.activations()})
        checked = held_texts.take(range(min(READ_BACK_TEXTS, len(held_texts))))
        written, stored_bytes = None, teacher.num_bytes if isinstance(teacher, StoringTeacher) else None
        if team.rank == 0:
            written = write_checkpoint(
                shorter, plan, student.stored(plan), output, trained=student.stored_others(), training=training,
                answer=lambda opened: read_back(loaded, opened, checked), check_texts=kept_texts(loaded, checked),
                progress=progress,
            )  # fmt: skip
            file.unlink(missing_ok=True)
            if isinstance(teacher, StoringTeacher):
                teacher.remove()
        team.wait()
    return Recovered(
        written or measure_folder(Path(output), plan), plan,
        tuple(state.finished), state.start_loss, state.best_loss, state.best_phase,
        loaded.head.loss_unit, len(texts), len(held_texts),
        {step: state.epochs.get(step, settings.epochs_of(step)) for step in settings.steps},
        state.cpu_seconds, run.stopped, stored_bytes,
    )  # fmt: skip


def _check_minutes(minutes: float | None, settings: RecoverySettings) -> None:
    if minutes is None:
        return
    if not (math.isfinite(minutes) and minutes > 0):
        raise UsageError(f"`minutes` {minutes:g}: give a number above 0.")
    if settings.epochs:
        raise UsageError("`minutes`: given together with `epochs`; give one of them.")


def _start(
    loaded: LoadedModel, source: str | Path | Allocation, data: Sequence[LabeledTexts], settings: RecoverySettings
) -> tuple[LoadedModel, Allocation, Iterable[tuple[str, QuantizedMatrix]], dict[str, torch.Tensor], str]:
    """Return the float model of the plan, the plan, its codes, the tensors that a folder stores in fp16, and a hash.

    The hash identifies the origin of the codes. The model lacks the layers or heads that the plan leaves out.
    """
    if isinstance(source, Allocation) or not Path(source).is_dir():
        plan = source if isinstance(source, Allocation) else read_allocation(source)
        loaded = as_planned(plan, loaded)
        if settings.start == "nearest":
            return loaded, plan, _nearest(loaded, plan), {}, "nearest"
        same = [part for part in data if part.sha256 == plan.provenance.data_sha256]
        quantizer = writing_quantizer(loaded, plan, same[0] if same else data[0])
        return loaded, plan, quantized_matrices(quantizer, plan), {}, "plan"
    folder = Path(source)
    if not is_quantized(folder):
        raise InputFileError(
            f"{folder}: is not a quantized folder. Give one that 'qbert-opt quantize' wrote, or a plan."
        )
    loaded = as_planned(read_allocation(folder / PLAN), loaded)
    opened, plan = load_quantized(folder, into=loaded, round_inputs=False)
    if settings.start == "nearest":
        return loaded, plan, _nearest(loaded, plan), {}, "nearest"
    others = dict(opened.model.named_parameters())
    return loaded, plan, read_matrices(folder, plan), others, file_sha256(folder / WEIGHTS)


def _functions(
    loaded: LoadedModel, plan: Allocation, batches: Sequence[TokenBatch], settings: RecoverySettings
) -> IntegerFunctions | None:
    """Return the integer nonlinear functions that the settings request.

    Raises:
        UsageError: a way that does not exist, or a model or plan without an integer form.
    """
    if settings.nonlinearity is None:
        return None
    ways, encoder = parse_ways(settings.nonlinearity), encoder_of(loaded)
    check_planned(encoder, plan.activations)
    return integer_functions(encoder, batches[:CALIBRATION_BATCHES], ways)


def _nearest(loaded: LoadedModel, plan: Allocation) -> Iterable[tuple[str, QuantizedMatrix]]:
    """Yield the plan's matrices rounded to nearest in min-max ranges, then its tables.

    Raises:
        UsageError: a matrix has a codebook, which has no such ranges.
    """
    if books := [matrix.module for matrix in plan.matrices if matrix.form == "codebook"]:
        raise UsageError(f"start: 'nearest' needs ranges, and {books[0]} has a codebook. Start from its codes.")
    return quantized_matrices(MatrixQuantizer(loaded, plan.profile, NEAREST, None), plan)


def _teacher(
    loaded: LoadedModel,
    plan: Allocation,
    batches: Sequence[TokenBatch],
    labels: Targets | None,
    settings: RecoverySettings,
    folder: Path,
    fingerprint: str,
) -> Teacher:
    """Return the teacher: the float model with the training text, storing its states in `folder` if set to."""
    if settings.teacher_cache is None:
        return Teacher(loaded, plan, batches, labels)
    points = points_of(settings.losses, len(block_names(loaded.model, plan)))
    return StoringTeacher(
        loaded, plan, batches, labels,
        folder=folder, points=points, share=settings.teacher_cache, fingerprint=fingerprint,
    )  # fmt: skip


def _fingerprint(
    plan: Allocation, origin: str, texts: LabeledTexts, settings: RecoverySettings, minutes: float | None
) -> str:
    parts = [plan.model_dump_json(), origin, texts.sha256, asdict(settings), minutes, torch.get_num_threads()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _check_same_run(file: Path, fingerprint: str) -> None:
    """Check that a state file belongs to this run.

    Raises:
        UsageError: it does not; names the file.
    """
    if read_state(file).progress.fingerprint != fingerprint:
        raise UsageError(
            f"{file}: belongs to a run with another plan, text, number of threads or settings. Use those, choose "
            "another output, or remove the file to start from the beginning."
        )
