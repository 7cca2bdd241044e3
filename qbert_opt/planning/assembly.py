"""Assemble the plan that is written, printed and deployed from the decisions for each matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..costs.engine_target import EngineTarget
from ..costs.functions import recorded
from ..costs.stored import Storage
from ..costs.workload import Workload
from ..runtime.provenance import code_version
from ..spec.allocation import Allocation
from ..spec.cache import CACHE_BITS
from ..spec.choices import Choice
from ..spec.planned import (
    Limit,
    PlannedActivation,
    PlannedCache,
    UniformPlan,
)
from ..spec.quantities import Measure
from ..spec.scores import ScoreTable
from ..spec.tables import table_choice
from .plan_bytes import engine_file, total_stored_bytes
from .plan_parts import device_cost, planned_matrix, planned_table

if TYPE_CHECKING:
    from hwmodels import CostReport


@dataclass(frozen=True, slots=True)
class Judgement:
    """A cross-fitted loss: each of `folds` parts of the scoring text evaluates the plan that the other parts chose.

    Attributes:
        loss: predicted loss, in the scores' unit.
        std_error: standard error of `loss`.
        folds: number of parts; 0 if `loss` is a sum of scores.
    """

    loss: float
    std_error: float
    folds: int


@dataclass(frozen=True, slots=True)
class Proof:
    """What is known about a plan besides its choices; the fields are those of `Allocation`.

    A plan made by a rule has status `unproven` and no bound.
    """

    status: str
    solver: str
    objective: Measure = "sum_of_scores"
    gap: float | None = None
    lower_bound: float | None = None
    limits: tuple[Limit, ...] = ()
    uniform: tuple[UniformPlan, ...] = ()
    random_loss: float | None = None
    next_mb_gain: float | None = None
    next_ms_gain: float | None = None
    judged: Judgement | None = None


def assemble(
    scores: ScoreTable,
    storage: Mapping[str, Storage],
    proof: Proof,
    report: CostReport | None,
    workload: Workload,
    target: EngineTarget | None = None,
    priced: Mapping[str, Choice] | None = None,
    *,
    token: CostReport | None = None,
) -> Allocation:
    """Assemble a plan: bytes from the choices, losses from the scores, device costs from the simulator's report.

    Args:
        scores: predicted loss of each choice.
        storage: how each matrix and searched table is stored, by module.
        proof: what is known about the plan besides its choices.
        report: the simulator's report, of a decoder's prompt; None without a device.
        workload: sentences and tokens of one inference, as simulated.
        target: the engine that the plan is made for; None for none.
        priced: the scored choice whose loss a matrix gets, by module, where its own was not scored.
        token: the simulator's report of a decoder's token; None for an encoder.
    """
    profile, value, errors = scores.profile, scores.values(), scores.std_errors()
    tables = tuple(planned_table(scores, table, table_choice(storage, table.module)) for table in profile.tables)
    scored = [table for table in tables if table.predicted_loss is not None]
    scored_as = {m.module: storage[m.module].choice for m in profile.matrices} | dict(priced or {})
    columns = [scores.choices.index(scored_as[m.module].name) for m in profile.matrices]
    matrices = tuple(
        planned_matrix(profile, i, storage[m.module], float(value[i, j]), float(errors[i, j]))
        for i, (m, j) in enumerate(zip(profile.matrices, columns, strict=True))
    )
    losses = [m.predicted_loss for m in matrices] + [t.predicted_loss or 0.0 for t in scored]
    std_errors = [m.std_error for m in matrices] + [t.std_error or 0.0 for t in scored]
    encoder_bytes = sum(m.bytes for m in matrices)
    total, total_error = math.fsum(losses), math.sqrt(math.fsum(error**2 for error in std_errors))
    judged = proof.judged or Judgement(total, total_error, folds=0)
    plan = Allocation(
        version=code_version(),
        status=proof.status,
        objective=proof.objective,
        gap=proof.gap,
        lower_bound=proof.lower_bound,
        solver=proof.solver,
        loss_unit=scores.loss_unit,
        contains=scores.contains,
        metric=scores.metric,
        method=scores.method,
        roundings=("matrices", "tables") if scored else ("matrices",),
        predicted_loss=judged.loss,
        predicted_std_error=judged.std_error,
        folds=judged.folds,
        sum_of_scores=total,
        sum_std_error=total_error,
        encoder_bytes=encoder_bytes,
        total_bytes=total_stored_bytes(profile, storage),
        average_bits=8 * encoder_bytes / profile.encoder_elements,
        profile=profile,
        matrices=matrices,
        tables=tables,
        functions={} if report is None else recorded(workload.functions),
        device=None if report is None else device_cost(profile, report, token, workload),
        engine=None if target is None else engine_file(profile, storage, target),
        limits=proof.limits,
        uniform=proof.uniform,
        random_loss=proof.random_loss,
        next_mb_gain=proof.next_mb_gain,
        next_ms_gain=proof.next_ms_gain,
        loss_scale=scores.loss_scale,
        provenance=scores.provenance,
    )
    return plan if token is None else with_cache(plan, workload.cache_bits, scores.cache_loss(workload.cache_bits))


def with_activations(plan: Allocation, activations: Sequence[PlannedActivation]) -> Allocation:
    """Add quantized inputs to a plan that has none; their loss is added to every loss in the plan.

    Args:
        plan: a plan whose inputs stay in floating point.
        activations: how each input is quantized, with its predicted loss.
    """
    more = math.fsum(item.predicted_loss for item in activations)
    plus = _with_more(plan, more, [item.std_error for item in activations], "activations")
    return plus.model_copy(update={"activations": tuple(activations)})


def with_cache(plan: Allocation, bits: int, scored: tuple[float, float] | None) -> Allocation:
    """Add a decoder's cache to a plan; its loss, if it was scored, is added to every loss in the plan.

    Args:
        plan: without a cache.
        bits: of a key or value.
        scored: its predicted loss and standard error; None if it was not scored.
    """
    loss, error = (None, None) if scored is None else scored
    cache = PlannedCache.model_validate({"bits": bits, "predicted_loss": loss, "std_error": error})
    if loss is not None and error is not None and bits < CACHE_BITS[0]:
        plan = _with_more(plan, loss, [error], "cache")
    return plan.model_copy(update={"cache": cache})


def _with_more(plan: Allocation, more: float, own: Sequence[float], what: str) -> Allocation:
    """Add a loss to every loss in a plan."""
    bounds_loss = plan.objective == "sum_of_scores"

    def joined(error: float) -> float:
        return math.sqrt(math.fsum(e**2 for e in [error, *own]))

    return plan.model_copy(
        update={
            "roundings": (*plan.roundings, what),
            "predicted_loss": plan.predicted_loss + more,
            "predicted_std_error": joined(plan.predicted_std_error),
            "sum_of_scores": plan.sum_of_scores + more,
            "sum_std_error": joined(plan.sum_std_error),
            "lower_bound": plan.lower_bound + more
            if bounds_loss and plan.lower_bound is not None
            else plan.lower_bound,
            "uniform": tuple(_uniform_with(plan, more, joined)),
            "random_loss": None if plan.random_loss is None else plan.random_loss + more,
        }
    )


def _uniform_with(plan: Allocation, more: float, joined: Callable[[float], float]) -> Iterator[UniformPlan]:
    for rival in plan.uniform:
        error = rival.predicted_std_error
        update = {
            "predicted_loss": rival.predicted_loss + more,
            "predicted_std_error": None if error is None else joined(error),
        }
        yield rival.model_copy(update=update)
