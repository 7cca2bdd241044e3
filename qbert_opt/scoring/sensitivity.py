"""Score every choice of every matrix of a model on calibration text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..curvature.sharing import softened
from ..data.texts import LabeledTexts
from ..errors import UsageError
from ..models.loading import LoadedModel, tokenized
from ..models.outputs import LOSS_UNITS, Head, Outputs, collect
from ..models.paging import pages_of
from ..models.structure import profile_model
from ..models.targets import read_targets
from ..models.tracing import unfrozen
from ..quantization.calibration import BATCH_SIZE, CalibrationPlan, calibration_texts
from ..quantization.storable import check_storable, possible_layouts
from ..runtime.distributed import ALONE, Processes
from ..runtime.memory_budget import MemoryShares
from ..runtime.progress import Progress, silent
from ..runtime.provenance import code_commit, code_version
from ..runtime.resumable import Jobs
from ..spec.activations import ActivationChoice
from ..spec.choices import Choice
from ..spec.legal import masked_choices, scorable_tables
from ..spec.profiles import ModelProfile
from ..spec.score_arrays import Rows, short
from ..spec.scores import ScoreTable
from .folds import sample_groups
from .further_scores import input_scores, width_scores
from .origin import provenance_of
from .perturbations import Perturbations
from .pool import Drawn, check_pool, drawn_from
from .readiness import (
    check_estimate,
    check_finite,
    check_ready,
    check_repeatable,
    check_samples,
    fitting_batches,
    overlap_warnings,
    training_text_warnings,
    window_warnings,
)
from .score_rows import (
    ScoredMatrix,
    column_of,
    common_scale,
    effective_sample_size,
    small_sample_warnings,
    zero_score_warnings,
)
from .table_reads import answers_and_reads
from .task import (
    LearnsAtBudget,
    ReadsFactors,
    ReadsPages,
    RecordsCurvature,
    ScoresActivations,
    ScoresTables,
    ScoringTask,
    metric_named,
)

DEFAULT_MEMORY_LIMIT_BYTES = 2 * 2**30
FEWEST_SCORED = 2
SCALED = "choices are ranked at softmax temperature 2, and one common factor converts the scores to KL"


def measure_sensitivity(
    loaded: LoadedModel,
    data: LabeledTexts,
    choices: Sequence[Choice],
    *,
    metric: str = "directional",
    plan: CalibrationPlan,
    table_choices: Sequence[Choice] = (),
    activation_choices: Sequence[ActivationChoice] = (),
    held_out: LabeledTexts | None = None,
    with_curvature: bool = False,
    budget_bytes: int | None = None,
    memory_limit_bytes: int = DEFAULT_MEMORY_LIMIT_BYTES,
    checkpoint: str | Path | None = None,
    processes: Processes | None = None,
    progress: Progress = silent,
) -> ScoreTable:
    """Score every choice of every searched matrix of a model.

    Args:
        loaded: the fine-tuned model.
        data: text like that in deployment, not used to train the model; labels only if the metric needs them.
        choices: choices of matrices to score, all of one quantizer.
        metric: name of a file in `metrics/`.
        plan: sizes and seed of the calibration set and the scoring texts, two disjoint samples of `data`.
        table_choices: choices of embedding tables to score; if empty, tables keep 8 bits.
        activation_choices: choices of the matrices' inputs to score; if empty, inputs stay in floating point.
        held_out: text that the model has certainly never seen; used to warn if `data` looks like training text.
        with_curvature: also record the trace and top eigenvalue of each matrix's Gauss-Newton matrix.
        budget_bytes: of the encoder's matrices, at which metric `differentiable` learns; other metrics score for every
            budget.
        memory_limit_bytes: memory to use in addition to the model itself.
        checkpoint: progress file, from which an interrupted run resumes.
        processes: the processes that share the work; each returns the whole table.
        progress: called with matrices done, number of matrices, and the current step.

    Returns:
        One score for each matrix and choice, in the table's `loss_unit`.

    Raises:
        UsageError: unknown metric, choices of several quantizers, a choice named twice, missing labels, budget or head,
            a model in training mode or half precision, a matrix without a legal choice, too small a memory limit, or a
            paged model and a metric that changes weights.
        InputFileError: too little data, unknown labels, non-finite activations, samples without a token, or a weight
            that exceeds the range of fp16.
    """
    plugin, team = metric_named(metric), ALONE if processes is None else processes
    method = _only_method(choices)
    if activation_choices and not isinstance(plugin, ScoresActivations):
        raise UsageError(f"`activation_bits`: metric {metric} does not score inputs; directional does.")
    if with_curvature and not isinstance(plugin, RecordsCurvature):
        raise UsageError(f"`curvature`: metric {metric} has no factors to take it from; directional has.")
    if pages_of(loaded.model) is not None and not isinstance(plugin, ReadsPages):
        raise UsageError(
            f"`metric` {metric}: changes weights, or differentiates twice in memory, and {loaded.name} is `paged`. Use "
            "directional, or keep the model in memory."
        )
    if not isinstance(plugin, LearnsAtBudget):
        budget_bytes = None
    elif budget_bytes is None:
        raise UsageError(
            f"`metric` {metric}: learns at one budget. Give `budget` to sensitivity, and its scores to other verbs."
        )
    head = loaded.head
    check_ready(loaded)
    if plan.num_pool:
        check_pool(loaded, plan, reads_factors=isinstance(plugin, ReadsFactors), with_curvature=with_curvature)
    if plan.num_scored < FEWEST_SCORED:
        raise UsageError(f"`num_scored` {plan.num_scored}: a standard error needs at least {FEWEST_SCORED} texts.")
    fit, scored = calibration_texts(data, plan, named=True)
    profile = profile_model(loaded)
    names = [m.module for m in profile.matrices]
    masks = {m.module: masked_choices(m, choices, heads=profile.heads_of(m)) for m in profile.matrices}
    check_storable(loaded.model, possible_layouts(profile, choices, table_choices))
    progress(0, len(names), "preparing")
    batches = tokenized(loaded, scored.texts, batch_size=BATCH_SIZE)
    needs_labels = plugin.NEEDS_LABELS and head.spec.loss.softmax  # elsewhere the float model's outputs stand for them
    uses_labels = needs_labels or head.spec.classifies  # other labels may be of any kind
    targets = read_targets(loaded, scored, batches) if uses_labels else None
    if needs_labels and targets is None:
        raise UsageError(
            f"`metric` {metric}: needs labels, and {data.name} has none. Use directional, which needs none."
        )
    check_samples(batches, data.name)
    counted = scorable_tables(profile) if plan.num_pool and table_choices else []
    answers, finite, reads = answers_and_reads(head, loaded.model, batches, counted, team)
    check_finite(loaded, batches, finite)
    check_repeatable(loaded, batches[-1])
    familiar = [] if held_out is None else _familiar(loaded, answers, data.name, held_out)
    fitted = tokenized(loaded, fit.texts, batch_size=BATCH_SIZE)
    provenance = provenance_of(loaded, data, plan, (fitted, batches), targets, answers)
    drawn: Drawn | None = None
    if plan.num_pool:
        scored, batches, answers, drawn = drawn_from(loaded, scored, batches, answers, plan, reads)
    # a spectrum needs all columns
    factors = softened(head, None if with_curvature else answers, None if drawn is None else drawn.weights)
    if isinstance(plugin, ReadsFactors):
        mean_count = factors.mean_count(head, range(answers.num_samples))
        provenance = provenance.model_copy(update={"back_propagations": mean_count})
    del answers  # outputs over a vocabulary are large
    shares = MemoryShares(memory_limit_bytes)
    batches = fitting_batches(loaded, factors.batched(head, batches), shares)
    settings = [metric, repr(plan), str(shares), str(with_curvature), str(loaded.longest), str(budget_bytes)]
    parts = [loaded.sha256, data.sha256, *settings, *(c.name for c in choices)]
    overlap = [*overlap_warnings(fitted, batches), *window_warnings(loaded, scored, batches)]
    jobs = Jobs(checkpoint, _fingerprint([*parts, code_version(), code_commit()]), team)
    allowed = _allowed(profile, choices, masks)
    rounding = Perturbations(loaded, profile, method, fit, allowed, shares)
    task = ScoringTask(
        model=loaded.model, profile=profile, batches=batches, targets=None if drawn else targets,
        perturbations=rounding, shares=shares,
        seed=plan.seed, jobs=jobs, given_head=head, given_factors=factors, with_curvature=with_curvature,
        drawn=drawn, groups=sample_groups(scored.texts, batches, by_context=head.kind == "spans"),
        sizes={m.module: [c.bytes(m.rows, m.columns, heads=profile.heads_of(m)) for c in allowed[m.module]]
               for m in profile.matrices},
        budget_bytes=budget_bytes,
        note=lambda text: progress(sum(name in jobs.finished for name in names), len(names), text),
    )  # fmt: skip
    mine = set(jobs.pending(names, [float(m.elements) for m in profile.matrices]))
    pending = [i for i, name in enumerate(names) if name in mine]
    rounding.expect([profile.matrices[i] for i in (pending if budget_bytes is None else range(len(names)))])
    with unfrozen(loaded.model):
        for index, estimate in plugin.score(
            task, pending
        ):  # even if none is pending, since a metric may score whole layers
            name = names[index]
            check_estimate(name, estimate)
            jobs.add(name, ScoredMatrix.of(estimate, rounding.norms[name]).row())
            progress(sum(name in jobs.finished for name in names), len(names), name)
    rows = [ScoredMatrix.from_row(row, len(choices) - len(masks[name])) for name, row in jobs.gather(names).items()]
    scale = common_scale(rows)
    factor = 1.0 if scale is None else scale.value

    def column(per_matrix: Iterable[NDArray[np.float64]]) -> Rows:
        return column_of(list(per_matrix), profile, choices, masks)

    num_folds = min(len(row.folds) for row in rows)
    tables = plugin.score_tables(task, table_choices) if isinstance(plugin, ScoresTables) else None
    activations = input_scores(plugin, task, loaded, fit, activation_choices)
    cache = width_scores(plugin, task)
    contains = plugin.CONTAINS
    if budget_bytes is not None:
        contains += f", at {budget_bytes:,} bytes of matrices"
    table = ScoreTable(
        metric=metric,
        method=method,
        # metrics in nats are in the unit of the model's outputs
        loss_unit=unit_of(plugin.LOSS_UNIT, head),
        contains=contains if scale is None else f"{contains}; {SCALED}",
        profile=profile,
        choices=tuple(c.name for c in choices),
        value=column(factor * row.value for row in rows),
        std_error=column(factor * row.std_error for row in rows),
        weight_error=column(row.weight_error for row in rows),
        fold_value=tuple(short(column(factor * row.folds[k] for row in rows)) for k in range(num_folds)),
        masks={module: reasons for module, reasons in masks.items() if reasons},
        scale=scale,
        samples=tuple(row.samples for row in rows),
        effective_samples=effective_sample_size(rows),
        block_sensitivity=tuple(task.block_sensitivity),
        activations=None if activations is None else activations.multiplied(factor),
        tables=None if tables is None else tables.multiplied(factor),
        cache=None if cache is None else cache.multiplied(factor),
        curvature=tuple(task.curvature),
        warnings=(*overlap, *familiar, *zero_score_warnings(names, rows), *small_sample_warnings(rows), *task.warnings),
        provenance=provenance,
    )
    jobs.remove()
    return table


def unit_of(unit: str, head: Head) -> str:
    """Return the unit of a metric's scores for a kind of output; metrics name that of a classifier.

    Args:
        unit: the metric's `LOSS_UNIT`.
        head: how the model's outputs are read.
    """
    cross_entropy = "nats of cross-entropy per sample"
    if unit.startswith(LOSS_UNITS["classes"]):
        return head.loss_unit + unit.removeprefix(LOSS_UNITS["classes"])
    if unit.startswith(cross_entropy):
        own = f"nats of cross-entropy per {head.spec.row}" if head.spec.loss.softmax else head.loss_unit
        return own + unit.removeprefix(cross_entropy)
    return unit


def _only_method(choices: Sequence[Choice]) -> str:
    if twice := [c.name for index, c in enumerate(choices) if c in choices[:index]]:
        raise UsageError(f"choices: {twice[0]} is named twice. Give each once.")
    methods = sorted({c.method for c in choices})
    if len(methods) != 1:
        raise UsageError(f"choices of several quantizers: {', '.join(methods) or 'none'}; score one at a time.")
    return methods[0]


def _allowed(
    profile: ModelProfile, choices: Sequence[Choice], masks: Mapping[str, Mapping[str, str]]
) -> dict[str, list[Choice]]:
    """Return the choices of each matrix that are not masked.

    Raises:
        UsageError: a matrix has none.
    """
    allowed = {m.module: [c for c in choices if c.name not in masks[m.module]] for m in profile.matrices}
    for module, left in allowed.items():
        if not left:
            raise UsageError(f"{module}: no choice is left: {next(iter(masks[module].values()))}")
    return allowed


def _familiar(loaded: LoadedModel, answers: Outputs, name: str, held_out: LabeledTexts) -> list[str]:
    unseen = tokenized(loaded, held_out.texts, batch_size=BATCH_SIZE)
    return training_text_warnings(answers, collect(loaded.head, loaded.model, unseen), (name, held_out.name))


def _fingerprint(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
