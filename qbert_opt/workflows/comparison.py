"""A plan, the uniform 8-bit plan and the float model side by side: written, run in the engine, and measured."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from ..costs.workload import Workload
from ..data.texts import LabeledTexts
from ..engines.session import Activations
from ..engines.timing import Timing, made_up_inputs, median_cpu_in_turns, time_files, time_model
from ..errors import InfeasibleError, InputFileError, UsageError
from ..evaluation.counts import changed_answers
from ..evaluation.flips import FlipRelation, flip_relation
from ..evaluation.intervals import Interval
from ..evaluation.logit_noise import probed_noise
from ..formats.traced_model import traceable
from ..models.heads import KINDS
from ..models.loading import LoadedModel
from ..runtime.files import folder_bytes, write_text
from ..runtime.progress import Progress
from ..spec.allocation import Allocation, write_allocation
from ..spec.quality import QualityLimits
from ..spec.quantities import shown
from .outcome import Measured, Outcome
from .output_folder import OUTCOME, PLAN, SCORES, OutputFolder
from .proving import proofs, prove_smallest
from .quantize import writing_quantizer
from .route import Request, Route, engine_route, find_route, first_sentence
from .shipping import CheckSetup, Shipped, answers_and_targets, check_setup, ship
from .solve import Solved
from .text_split import TextSplit
from .uniform_rival import uniform_rival
from .verify import apply_plan

UNIFORM = "uniform-8bit"
FLOAT_NAME, UNIFORM_NAME, PLAN_NAME = "float32", "uniform 8-bit", "this plan"
RUNS = 10  # of each of two turns


def compared(
    loaded: LoadedModel,
    texts: LabeledTexts,
    split: TextSplit,
    request: Request,
    activations: Activations | None,
    quality: QualityLimits,
    folder: OutputFolder,
    original: Path | None,
    reused: bool,
    progress: Progress,
) -> tuple[Shipped, Solved, Outcome]:
    """Find the plan, write and measure it, do the same with uniform 8 bits, and write what was found.

    Args:
        loaded: the float model.
        texts: the data set that was scored.
        split: its parts.
        request: what plans are solved from.
        activations: how the engine rounds inputs; None takes the best setting that has a plan.
        quality: limits on answers; without any, the predicted loss is minimized under the other limits.
        folder: where everything is written.
        original: the float model in the engine's format; None without an engine.
        reused: the scores are of an interrupted run.
        progress: called with the current step.

    Raises:
        InfeasibleError: no plan meets every limit, or is proven to.
    """
    relation = noise = None
    if KINDS[loaded.head.kind].loss.softmax and request.scores.loss_unit == loaded.head.loss_unit:
        progress(0, 1, "measuring how noise on the weights moves answers")
        noise = probed_noise(loaded, split.seen, split.scored)
        relation = flip_relation(*answers_and_targets(loaded, split.seen), noise=noise)
    elif quality:
        raise UsageError(f"`metric` {request.scores.metric}: its scores are no KL, so they predict no flips.")
    progress(0, 1, "solving")
    shared = quality.shared_by(2) if activations is None else quality  # planned inputs, then the engine's own rounding
    route = find_route(request, activations, lambda plan: _refusal(plan, loaded, texts, split, shared))
    engine = request.constraints.engine
    setup = check_setup(loaded, texts, split.check, engine, activations)
    folder.tried.mkdir(exist_ok=True)
    if quality and relation is not None:
        quality = shared if route.inputs else quality
        first = folder.tried / ("planned" if route.inputs else "plans")
        try:
            proven = prove_smallest(setup, route, relation, quality, first, progress)
        except InfeasibleError as error:
            if not route.inputs or activations is not None:
                raise
            route = engine_route(request, activations, first_sentence(error))
            proven = prove_smallest(setup, route, relation, quality, folder.tried / "plans", progress)
        shipped, solved, tried = proven.shipped, proven.solved, proven.tried
    else:
        solved = route.solved
        shipped, tried = ship(setup, solved.plan, folder.tried / "1", progress), ()
    uniform, more_notes = uniform_rival(route), list[str]()
    rival = None
    if uniform is not None:
        try:
            rival = ship(setup, uniform.plan, folder.tried / UNIFORM, progress)
        except (InputFileError, UsageError) as error:  # the plan itself is written: its rival must not stop it
            more_notes.append(f"uniform 8-bit cannot be compared: {error}")
    suffices = uniform is not None and not uniform.broken
    suffices = suffices and rival is not None and all(p.holds for p in proofs(rival.changed, quality))
    of_check = None if noise is None else flip_relation(setup.truth, setup.targets, noise=noise)
    latencies = _timed(setup, original, request.workload, {PLAN_NAME: shipped, UNIFORM_NAME: rival}, progress)
    row = _Rows(setup, of_check, quality, route, latencies)
    outcome = Outcome(
        model=loaded.name,
        engine=None if shipped.exported is None else shipped.exported.engine_label,
        device=None if request.device is None else request.device.id,
        activations=None if shipped.exported is None else shipped.exported.activations,
        loss_unit=solved.plan.loss_unit,
        least=request.least,
        texts=str(split),
        original=row.original(solved.plan, None if original is None else folder_bytes(original)),
        uniform=None if rival is None or uniform is None else row.of(rival, UNIFORM_NAME, uniform.latency_s),
        uniform_choice=None if rival is None else rival.plan.matrices[0].choice.name,
        uniform_suffices=suffices,
        plan=row.of(shipped, PLAN_NAME, solved.report.latency_s if solved.report else None),
        tried=tuple(
            row.of(one, f"plan {number}", one.plan.device.latency_s if one.plan.device else None)
            for number, one in enumerate(tried, 1)
        ),
        limits=tuple(
            f"{limit.source}: {shown(limit.resource, limit.used)} of {shown(limit.resource, limit.capacity)}"
            for limit in solved.plan.limits
            if limit.resource != "sum_of_scores"
        ),
        notes=(*_notes(route, setup, shipped, split, quality, reused), *more_notes),
        files=_files(folder, shipped, rival if suffices else None),
    )
    shipped = _kept(folder, shipped, rival if suffices else None)
    write_allocation(solved.plan, folder.path / PLAN)
    write_text(folder.path / OUTCOME, outcome.model_dump_json(by_alias=True, indent=1) + "\n")
    shutil.rmtree(folder.tried)
    return shipped, solved, outcome


def _files(folder: OutputFolder, shipped: Shipped, rival: Shipped | None) -> tuple[str, ...]:
    """Describe the contents of the finished folder."""
    names = [SCORES, PLAN, OUTCOME, shipped.quantized.name]
    names += [] if shipped.exported is None else [shipped.exported.engine]
    names += [] if rival is None else [UNIFORM]
    return tuple(str(folder.path / name) for name in names)


def _kept(folder: OutputFolder, shipped: Shipped, rival: Shipped | None) -> Shipped:
    """Move what is kept out of the folder of tried plans; the uniform plan only if it is recommended."""
    if rival is not None:
        (folder.path / UNIFORM).mkdir(exist_ok=True)
        rival.moved(folder.path / UNIFORM)
    return shipped.moved(folder.path)


def _refusal(
    plan: Allocation, loaded: LoadedModel, texts: LabeledTexts, split: TextSplit, quality: QualityLimits
) -> str | None:
    """Return why a plan with rounded inputs is unlikely to be proven, by its own texts; None if it is likely."""
    if not quality:
        return None
    rounded = apply_plan(loaded, plan, writing_quantizer(loaded, plan, texts))
    truth, targets = answers_and_targets(loaded, split.seen)
    answers, _ = answers_and_targets(rounded, split.seen)
    changed = changed_answers(answers, truth.values, targets)
    for proof in proofs(changed.as_of(len(split.check)), quality):
        if not proof.holds:
            return (
                f"{changed.flipped} of {changed.num_texts} answers change on the calibration and scoring texts, too "
                f"many to expect a proof of `max_{proof.limit}` {100 * proof.allowed:g} % on {len(split.check)} texts"
            )
    return None


class _Rows:
    """Makes the rows of the comparison."""

    def __init__(
        self,
        setup: CheckSetup,
        relation: FlipRelation | None,
        quality: QualityLimits,
        route: Route,
        latencies: Mapping[str, float],
    ) -> None:
        self._setup, self._relation, self._quality = setup, relation, quality
        self._rounding, self._latencies = route.engine_rounding, latencies

    def original(self, plan: Allocation, engine_bytes: int | None) -> Measured:
        """The float model's."""
        return Measured(
            name=FLOAT_NAME,
            stored_bytes=plan.profile.float_bytes,
            num_texts=self._texts,
            accuracy=self._setup.reference.accuracy,
            engine_bytes=engine_bytes,
            latency_s=self._latencies.get(FLOAT_NAME),
        )

    def of(self, shipped: Shipped, name: str, device_s: float | None = None) -> Measured:
        """One plan's."""
        plan, changed = shipped.plan, shipped.changed
        has_answers = self._relation is not None
        return Measured(
            name=name,
            stored_bytes=plan.total_bytes,
            engine_bytes=None if shipped.exported is None else shipped.exported.exported_bytes,
            num_texts=self._texts,
            accuracy=shipped.measured.accuracy,
            drop=changed.drop,
            flips=changed.flips if has_answers else None,
            flipped=changed.flipped if has_answers else None,
            kl=shipped.measured.loss,
            predicted_loss=plan.predicted_loss + self._rounding,
            predicted_flips=self._forecast(plan, drop=False),
            predicted_drop=self._forecast(plan, drop=True) if changed.drop is not None else None,
            latency_s=self._latencies.get(name),
            predicted_latency_s=device_s,
            proofs=proofs(changed, self._quality) if self._quality else (),
        )

    @property
    def _texts(self) -> int:
        return len(self._setup.check)

    def _forecast(self, plan: Allocation, *, drop: bool) -> Interval | None:
        if self._relation is None:
            return None
        return self._relation.forecast(plan.predicted_loss + self._rounding, plan.predicted_std_error, drop=drop)


def _timed(
    setup: CheckSetup,
    original: Path | None,
    workload: Workload,
    plans: Mapping[str, Shipped | None],
    progress: Progress,
) -> dict[str, float]:
    """Time the float model's files and the plans' in turns: seconds by name; empty without an engine."""
    tokens, batch = workload.seq_len, workload.batch_size
    timed: dict[str, Callable[[], Timing]] = {}
    if original is not None and setup.engine is not None:
        inputs = made_up_inputs(traceable(setup.loaded).inputs, batch, tokens)
        timed[FLOAT_NAME] = partial(
            time_files, setup.engine, original, inputs, threads=1, runs=RUNS, activations="float32"
        )
    for name, one in plans.items():
        if one is not None and one.exported is not None:
            folder = one.folder / one.exported.engine
            timed[name] = partial(time_model, folder, seq_len=tokens, batch_size=batch, threads=1, runs=RUNS)
    if timed:
        progress(0, 1, f"timing {', '.join(timed)}")
    return median_cpu_in_turns(timed)


def _notes(
    route: Route, setup: CheckSetup, shipped: Shipped, split: TextSplit, quality: QualityLimits, reused: bool
) -> Sequence[str]:
    notes = list(route.notes)
    if shipped.exported is not None:
        notes += [f"inputs {name} were not taken: {reason}" for name, reason in shipped.exported.refused.items()]
    if reused:
        notes.append("the scores are of an earlier, interrupted run with the same model, text and seed")
    if not split.held_out:
        notes.append("measured on the scoring texts, which chose the plan: give more text, or test data")
    if quality.accuracy_drop is not None and setup.targets is None:
        notes.append(
            "the text has no labels: the accuracy drop is taken as the share of changed answers, never smaller"
        )
    warnings = route.request.scores.warnings
    return [*notes, *warnings]
