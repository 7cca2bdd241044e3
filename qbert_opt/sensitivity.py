"""Model and calibration text to a table of scores: every matrix, every choice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from . import registry
from .calibration import BATCH_SIZE, CalibrationPlan, MatrixQuantizer, calibration_texts
from .choices import Choice
from .errors import UsageError
from .files import check_folder, disk_error
from .metrics._task import Estimate, ScoringTask
from .models.batches import TokenBatch, mean_tokens, tokenize
from .models.loading import LoadedModel, label_index
from .models.outputs import LOSS_UNITS, SOFTMAX_KINDS, collect
from .models.structure import profile_model
from .profiles import MatrixSpec, ModelProfile
from .provenance import code_commit, code_version, today
from .scores import Provenance, ScoreTable
from .texts import LabeledTexts

DEFAULT_MEMORY_LIMIT_BYTES = 2 * 2**30


def measure_sensitivity(
    loaded: LoadedModel,
    data: LabeledTexts,
    choices: Sequence[Choice],
    *,
    metric: str = "directional",
    plan: CalibrationPlan,
    memory_limit_bytes: int = DEFAULT_MEMORY_LIMIT_BYTES,
    checkpoint: str | Path | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> ScoreTable:
    """Score every choice of every searched matrix of a model.

    Args:
        loaded: the fine-tuned model.
        data: text like the deployment's that the model was not trained on; labels only where the metric needs them.
        choices: what to score; all of one quantizer method.
        metric: name of a file in `metrics/`.
        plan: sizes and seed of the two disjoint samples of `data`.
        memory_limit_bytes: bound on what a factor pass keeps.
        checkpoint: file for finished matrices; an interrupted run goes on from it.
        progress: called with matrices done, matrices in all, and what goes on.

    Raises:
        UsageError: unknown metric, mixed methods, labels or head missing.
        InputFileError: too little data, unknown labels, non-finite activations.
    """
    plugin = registry.load("metrics", metric)
    method = _only_method(choices)
    head = loaded.head
    if plugin.NEEDS_LABELS and head.kind != "classes":
        raise UsageError(f"--metric {metric}: scores classifiers; {loaded.name} answers with {head.kind}.")
    fit, scored = calibration_texts(data, plan)
    labels = None
    if scored.labels is not None and head.kind == "classes":
        labels = label_index(loaded, scored.labels, data.name)
    if plugin.NEEDS_LABELS and labels is None:
        raise UsageError(
            f"--metric {metric}: needs labels, and {data.name} has none. Use directional, which needs none."
        )
    profile = profile_model(loaded)
    progress(0, len(profile.matrices), "input statistics")
    quantizer = MatrixQuantizer(loaded, profile, method, fit)
    masks = {m.module: _masks(m, choices, profile.heads) for m in profile.matrices}
    batches = tokenize(loaded.tokenizer, scored.texts, batch_size=BATCH_SIZE, kind=head.kind)
    finished = _Checkpoint(checkpoint, _fingerprint(loaded, data, choices, metric, plan))
    norms: dict[int, list[float]] = {}

    def allowed(matrix: MatrixSpec) -> list[Choice]:
        return [c for c in choices if c.name not in masks[matrix.module]]

    def perturbations(matrix: MatrixSpec) -> torch.Tensor:
        errors = quantizer.errors(matrix, allowed(matrix))
        norms[profile.matrices.index(matrix)] = errors.flatten(1).double().square().sum(1).tolist()
        return errors

    task = ScoringTask(
        model=loaded.model, profile=profile, batches=batches, labels=labels,
        perturbations=perturbations, memory_limit_bytes=memory_limit_bytes, seed=plan.seed, given_head=head,
        note=lambda text: progress(len(finished.rows), len(profile.matrices), text),
    )  # fmt: skip
    pending = [i for i in range(len(profile.matrices)) if i not in finished.rows]
    for index, estimate in plugin.score(task, pending):  # also when none is pending: a metric may score whole layers
        finished.add(index, estimate, norms[index])
        progress(len(finished.rows), len(profile.matrices), profile.matrices[index].module)
    table = ScoreTable(
        metric=metric,
        method=method,
        # metrics in nats are in the unit of the model's outputs
        loss_unit=head.loss_unit if LOSS_UNITS["classes"] == plugin.LOSS_UNIT else plugin.LOSS_UNIT,
        contains=plugin.CONTAINS,
        profile=profile,
        choices=tuple(c.name for c in choices),
        value=_rows(finished, 0, profile, choices, masks),
        std_error=_rows(finished, 1, profile, choices, masks),
        weight_error=_rows(finished, 2, profile, choices, masks),
        masks={module: reasons for module, reasons in masks.items() if reasons},
        block_sensitivity=tuple(task.block_sensitivity),
        provenance=_provenance(loaded, data, plan, batches, labels),
    )
    finished.remove()
    return table


class _Checkpoint:
    """Finished matrices as JSON lines behind a first line that says of which run they are."""

    def __init__(self, path: str | Path | None, fingerprint: str) -> None:
        self.rows: dict[int, tuple[list[float], list[float], list[float]]] = {}
        self._path = None if path is None else Path(path)
        if self._path is None:
            return
        if self._path.exists():
            lines = self._path.read_text().splitlines()
            if lines and lines[0] == fingerprint:
                for line in lines[1:]:
                    try:
                        index, *row = json.loads(line)
                    except ValueError:
                        break  # the run was stopped inside this line
                    self.rows[index] = (row[0], row[1], row[2])
        check_folder(self._path)
        self._write("w", fingerprint, *(json.dumps([index, *row]) for index, row in self.rows.items()))

    def add(self, index: int, estimate: Estimate, norms: list[float]) -> None:
        row = (estimate.value.tolist(), estimate.std_error.tolist(), norms)
        self.rows[index] = row
        self._write("a", json.dumps([index, *row]))

    def _write(self, mode: str, *lines: str) -> None:
        if self._path is None:
            return
        try:
            with self._path.open(mode) as file:
                file.writelines(line + "\n" for line in lines)
        except OSError as error:
            raise disk_error(self._path, error) from None

    def remove(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _only_method(choices: Sequence[Choice]) -> str:
    methods = sorted({c.method for c in choices})
    if len(methods) != 1:
        raise UsageError(f"choices mix the quantizer methods {', '.join(methods) or 'none'}; score one at a time.")
    return methods[0]


def _masks(matrix: MatrixSpec, choices: Sequence[Choice], heads: int) -> dict[str, str]:
    reasons = {}
    for c in choices:
        try:
            c.layout(matrix.rows, matrix.columns, heads=heads)
        except UsageError as error:
            reasons[c.name] = str(error)
    return reasons


def _rows(
    finished: _Checkpoint,
    which: int,
    profile: ModelProfile,
    choices: Sequence[Choice],
    masks: dict[str, dict[str, str]],
) -> tuple[tuple[float | None, ...], ...]:
    table = []
    for index, matrix in enumerate(profile.matrices):
        found = iter(finished.rows[index][which])
        table.append(tuple(None if c.name in masks[matrix.module] else next(found) for c in choices))
    return tuple(table)


def _fingerprint(
    loaded: LoadedModel, data: LabeledTexts, choices: Sequence[Choice], metric: str, plan: CalibrationPlan
) -> str:
    parts = [loaded.sha256, data.sha256, metric, repr(plan), *(c.name for c in choices), code_version(), code_commit()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _provenance(
    loaded: LoadedModel,
    data: LabeledTexts,
    plan: CalibrationPlan,
    batches: Sequence[TokenBatch],
    labels: torch.Tensor | None,
) -> Provenance:
    outputs = collect(loaded.head, loaded.model, batches)
    accuracy = None if labels is None else float((outputs.values.argmax(-1) == labels).double().mean())
    confidence = None
    if outputs.kind in SOFTMAX_KINDS:
        confidence = float(outputs.values.double().softmax(-1).max(-1).values.mean())
    return Provenance(
        data=data.name,
        data_sha256=data.sha256,
        num_scored=plan.num_scored,
        num_calibration=plan.num_calibration,
        mean_tokens=mean_tokens(batches),
        mean_confidence=confidence,
        scored_accuracy=accuracy,
        seed=plan.seed,
        commit=code_commit(),
        version=code_version(),
        date=today(),
    )
