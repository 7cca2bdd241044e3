"""The training loop: phases of the ladder with AdamW, keeping the best state, resumable after every update."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..models.batches import TokenBatch
from ..models.outputs import Outputs, collect
from ..runtime import plugins
from ..runtime.distributed import Processes
from .attention import deployed_attention, training_attention
from .phases import Phase, Step
from .run_state import PhaseRecord, Progress, RunState, Tensors, read_state, write_state
from .settings import RecoverySettings
from .student import Student
from .teacher import Teacher
from .updates import batches_of, ends_pass, num_updates, set_gradients

SECONDS_BETWEEN_WRITES = 60.0
WARM_UP = 0.1  # of a phase's updates
UNITS = 1000  # of progress per pass of the student over one batch
Tell = Callable[[int, int, str], None]


class Stopped(Exception):
    """Ends the run with the best state so far; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class Held:
    """Held-out text that selects the best state and is not trained on.

    Attributes:
        batches: the text.
        wanted: the teacher's outputs for it.
    """

    batches: Sequence[TokenBatch]
    wanted: Outputs

    def loss(self, student: Student, teacher: Teacher) -> float:
        """Return the mean loss of the student: KL in nats, or squared distance for outputs that are not logits.

        Args:
            student: the model in training.
            teacher: the float model, for how outputs are read.
        """
        with deployed_attention(), student.functions:
            values = collect(teacher.head, student.plain(), self.batches).values
        return float(teacher.head.spec.loss.of_rows(self.wanted.values, values).mean())


class TrainingRun:
    """One run over the steps of the ladder.

    Attributes:
        state: its progress and tensors.
        stopped: why it ended early; None if it did not.
    """

    def __init__(
        self,
        student: Student,
        teacher: Teacher,
        held: Held,
        settings: RecoverySettings,
        *,
        fingerprint: str = "",
        file: Path | None = None,
        tell: Tell = lambda done, total, what: None,
        phase_over: Callable[[PhaseRecord], None] = lambda record: None,
        seconds_between_writes: float = SECONDS_BETWEEN_WRITES,
        team: Processes | None = None,
    ) -> None:
        """Start, or resume from the state file of the same run.

        Args:
            student: the model in training.
            teacher: the float model to imitate, with the training text.
            held: held-out text.
            settings: steps and passes.
            fingerprint: hash of everything that the run depends on.
            file: state file, written periodically; None writes none.
            tell: called with work done, total work, and a description.
            phase_over: called after each phase, with the best state so far in the student.
            seconds_between_writes: interval between writes of the state file.
            team: the processes that train together; the first one writes.
        """
        self._student, self._teacher, self._held, self._settings = student, teacher, held, settings
        self._file, self._tell, self._between = file, tell, seconds_between_writes
        self._phase_over, self._team = phase_over, team or Processes()
        self._written = time.monotonic()
        self.stopped: str | None = None
        if file is not None and file.exists():
            self.state = read_state(file)
            student.load_state_dict(self.state.student)
        else:
            loss = held.loss(student, teacher)
            progress = Progress(fingerprint=fingerprint, start_loss=loss, best_loss=loss, epochs=dict(settings.epochs))
            self.state = RunState(progress, {}, self._snapshot())
        self._team.wait()  # all processes read the file before the first one writes it
        self._clock = time.process_time() - self.state.progress.cpu_seconds
        steps = {name: plugins.load_as("training_steps", name, Step) for name in settings.steps}
        self._work = {name: step.COST * self._updates(name) for name, step in steps.items()}
        self._steps = steps

    def go(self) -> None:
        """Train until the end, Ctrl-C, or a loss that is not finite; leaves the best state in the student."""
        try:
            for name in self._settings.steps:
                if name not in self.state.progress.finished_steps:
                    self._run_step(name)
                    self.state.progress.finished_steps.append(name)
                    self._write()
        except KeyboardInterrupt:
            self.stopped = "stopped by Ctrl-C; the best state is kept"
            with suppress(Stopped):
                self._judge("Ctrl-C")
        except Stopped as reason:
            self.stopped = str(reason)
        self._student.load_state_dict(self.state.best)
        self.state.progress.cpu_seconds = time.process_time() - self._clock

    def _run_step(self, name: str) -> None:
        step, settings = self._steps[name], self._settings
        rates = settings.rates.get(name, step.RATES)
        known = {record.phase for record in self.state.progress.finished}
        done = sum(self._work[before] for before in self.state.progress.finished_steps)
        count = step.num_phases(self._teacher)
        self._tell(int(UNITS * done), int(UNITS * sum(self._work.values())), f"{name}: the float model's outputs")
        with training_attention(self._teacher.batches):
            for number, phase in enumerate(step.phases(self._student, self._teacher, rates, settings)):
                if phase.name not in known:
                    share = self._work[name] / count
                    self._optimize(phase, self._updates(name), done + number * share, share)

    def _optimize(self, phase: Phase, updates: int, work_before: float, work: float) -> None:
        """Run a phase to its end and keep its result if that lowers the loss on held-out text."""
        progress, teacher, settings = self.state.progress, self._teacher, self._settings
        parameters = [*phase.learned.weights, *phase.learned.ranges]
        learned = {id(parameter) for parameter in parameters}
        for parameter in self._student.parameters():
            parameter.requires_grad_(id(parameter) in learned)
        groups = [
            {"params": params, "rate": rate}
            for params, rate in zip((phase.learned.weights, phase.learned.ranges), phase.rates, strict=True)
            if params
        ]
        if progress.updates == 0:
            phase.begin()
        optimizer = torch.optim.AdamW(groups, lr=0.0, weight_decay=0.0, fused=True)
        _fill(optimizer, self.state.optimizer)
        losses: list[float] = []
        count, total = len(teacher.batches), sum(self._work.values())
        for update in range(progress.updates, updates):
            batches = batches_of(update, settings.batches_per_update, count, settings.seed)
            losses.append(set_gradients(phase.loss, batches, parameters, self._team))
            if not math.isfinite(losses[-1]):
                raise Stopped(f"loss is {losses[-1]} in update {update + 1} of {phase.name}; the best state is kept")
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * _pace(update, updates)
            optimizer.step()
            progress.updates = update + 1
            done = work_before + work * progress.updates / updates
            self._tell(int(UNITS * done), int(UNITS * total), f"{phase.name} loss {np.mean(losses[-20:]):.4f}")
            whole_pass = ends_pass(update, settings.batches_per_update, count)
            if phase.whole and whole_pass and progress.updates < updates:
                self._judge(phase.name)
            if time.monotonic() - self._written > self._between:
                self.state.optimizer = _state_of(optimizer)
                self._write()
        held = self._judge(phase.name)
        kept = progress.best_phase == phase.name  # its last pass, or an earlier one
        tail = losses[-max(1, updates // 10) :]
        progress.finished.append(
            PhaseRecord(
                phase=phase.name,
                updates=updates,
                train_loss=float(np.mean(tail)) if tail else 0.0,
                held_loss=progress.best_loss if kept else held,
                kept=kept,
                cpu_seconds=time.process_time() - self._clock,
            )
        )
        self._student.load_state_dict(self.state.best)
        progress.updates, self.state.optimizer = 0, {}
        self._write()
        begun = time.process_time()
        with deployed_attention():
            self._phase_over(progress.finished[-1])
        self._clock += time.process_time() - begun  # not training

    def _judge(self, phase: str) -> float:
        """Measure the loss on held-out text, and record the state as the best if the loss is the lowest so far.

        Raises:
            Stopped: the outputs are not finite.
        """
        loss = self._held.loss(self._student, self._teacher)
        progress = self.state.progress
        if not math.isfinite(loss):
            raise Stopped(f"outputs are NaN after update {progress.updates} of {phase}; the best state is kept")
        if loss < progress.best_loss:
            progress.best_loss, progress.best_phase = loss, phase
            self.state.best = self._snapshot()
        return loss

    def _updates(self, step: str) -> int:
        """Updates of each phase of a step."""
        epochs = self.state.progress.epochs.get(step, self._settings.epochs_of(step))
        return num_updates(epochs, len(self._teacher.batches), self._settings.batches_per_update)

    def _snapshot(self) -> Tensors:
        return {name: tensor.detach().clone() for name, tensor in self._student.state_dict().items()}

    def _write(self) -> None:
        if self._file is None or self._team.rank > 0:
            return
        self.state.student = self._student.state_dict()
        self.state.progress.cpu_seconds = time.process_time() - self._clock
        write_state(self.state, self._file)
        self._written = time.monotonic()


def _pace(update: int, updates: int) -> float:
    """Factor of the learning rate: linear warm-up, then cosine decay to zero.

    Without warm-up, Adam's first updates move every weight by the full learning rate; in end-to-end training, that
    throws the model out of the minimum found block by block.
    """
    warm = min(1.0, (update + 1) / max(1.0, WARM_UP * updates))
    return warm * 0.5 * (1 + math.cos(math.pi * update / updates))


def _state_of(optimizer: torch.optim.Optimizer) -> Tensors:
    """Moments and step counts, by `number.name`."""
    return {
        f"{number}.{name}": tensor
        for number, state in optimizer.state_dict()["state"].items()
        for name, tensor in state.items()
    }


def _fill(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Undo `_state_of`."""
    state: dict[int, Tensors] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
