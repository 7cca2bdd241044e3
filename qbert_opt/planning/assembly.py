"""What was decided for each matrix, put together to the plan that is written, printed and deployed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..costs.operations import Workload
from ..costs.stored import EngineTarget, Storage, other_stored_bytes, weight_bytes
from ..runtime.provenance import code_version
from ..spec.allocation import (
    Allocation,
    DeviceCost,
    EngineFile,
    Limit,
    PlannedActivation,
    PlannedMatrix,
    PlannedTable,
    UniformPlan,
)
from ..spec.choices import Choice, zero_dtype
from ..spec.limits import Measure
from ..spec.profiles import ModelProfile, TableSpec
from ..spec.scores import ScoreTable
from ..spec.tables import table_bytes, table_choice

if TYPE_CHECKING:
    from hwmodels import CostReport


@dataclass(frozen=True, slots=True)
class Judgement:
    """A predicted loss with its standard error, from `folds` parts of the scoring text that did not choose the plan."""

    loss: float
    std_error: float
    folds: int


@dataclass(frozen=True, slots=True)
class Proof:
    """What is known about a plan beside its choices; a plan made by a rule proves nothing."""

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
) -> Allocation:
    """Put a plan together: prices from the choices, losses from the scores, costs from the simulator's report."""
    profile, value, errors = scores.profile, scores.values(), scores.std_errors()
    tables = tuple(planned_table(scores, table, table_choice(storage, table.module)) for table in profile.tables)
    scored = [table for table in tables if table.predicted_loss is not None]
    columns = [scores.choices.index(storage[m.module].choice.name) for m in profile.matrices]
    matrices = tuple(
        planned_matrix(profile, i, storage[m.module], float(value[i, j]), float(errors[i, j]))
        for i, (m, j) in enumerate(zip(profile.matrices, columns, strict=True))
    )
    losses = [m.predicted_loss for m in matrices] + [t.predicted_loss or 0.0 for t in scored]
    std_errors = [m.std_error for m in matrices] + [t.std_error or 0.0 for t in scored]
    encoder_bytes = sum(m.bytes for m in matrices)
    total, total_error = math.fsum(losses), math.sqrt(math.fsum(error**2 for error in std_errors))
    judged = proof.judged or Judgement(total, total_error, folds=0)
    return Allocation(
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
        device=None if report is None else _device_cost(report, workload),
        engine=None if target is None else engine_file(profile, storage, target),
        limits=proof.limits,
        uniform=proof.uniform,
        random_loss=proof.random_loss,
        next_mb_gain=proof.next_mb_gain,
        next_ms_gain=proof.next_ms_gain,
        loss_scale=scores.loss_scale,
        provenance=scores.provenance,
    )


def with_activations(plan: Allocation, activations: Sequence[PlannedActivation]) -> Allocation:
    """Add rounded inputs to a plan without any; their loss comes to every loss alike.

    Args:
        plan: a plan whose inputs stay in floats.
        activations: how each input is rounded, with its predicted loss.
    """
    more = math.fsum(item.predicted_loss for item in activations)
    own = [item.std_error for item in activations]

    def joined(error: float) -> float:
        return math.sqrt(math.fsum(e**2 for e in [error, *own]))

    return plan.model_copy(
        update={
            "activations": tuple(activations),
            "roundings": (*plan.roundings, "activations"),
            "predicted_loss": plan.predicted_loss + more,
            "predicted_std_error": joined(plan.predicted_std_error),
            "sum_of_scores": plan.sum_of_scores + more,
            "sum_std_error": joined(plan.sum_std_error),
            "lower_bound": None if plan.lower_bound is None else plan.lower_bound + more,
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


def stored_bytes(profile: ModelProfile, storage: Mapping[str, Storage]) -> int:
    """Bytes of the searched matrices under their choices."""
    return sum(storage[m.module].choice.bytes(m.rows, m.columns, heads=profile.heads) for m in profile.matrices)


def total_stored_bytes(profile: ModelProfile, storage: Mapping[str, Storage]) -> int:
    """Bytes of the whole stored model under its choices."""
    tables = sum(table_bytes(table, table_choice(storage, table.module)) for table in profile.tables)
    return stored_bytes(profile, storage) + tables + profile.other_bytes


def engine_file(profile: ModelProfile, storage: Mapping[str, Storage], target: EngineTarget) -> EngineFile:
    """Return the bytes of a plan in its engine's own file.

    Args:
        profile: the model.
        storage: how each matrix and table is stored, by module.
        target: the engine.
    """
    encoder = sum(weight_bytes(m, storage[m.module].choice, profile.heads, target) for m in profile.matrices)
    nodes = sum(target.node_bytes(m, storage[m.module].choice) for m in profile.matrices)
    tables = [
        weight_bytes(table, table_choice(storage, table.module), profile.heads, target) for table in profile.tables
    ]
    rest = other_stored_bytes(profile, target, profile.tables)
    graph = nodes + rest - profile.other_bytes
    return EngineFile(
        name=target.name, encoder_bytes=encoder, total_bytes=encoder + sum(tables) + rest + nodes, graph_bytes=graph
    )


def limited_bytes(profile: ModelProfile, storage: Mapping[str, Storage], target: EngineTarget | None) -> dict[str, int]:
    """Return what limits on bytes count: the file of the engine that the plan is made for, else packed bytes.

    Args:
        profile: the model.
        storage: how each matrix and table is stored, by module.
        target: the engine, or None.
    """
    if target is None:
        encoder, total = stored_bytes(profile, storage), total_stored_bytes(profile, storage)
    else:
        file = engine_file(profile, storage, target)
        encoder, total = file.encoder_bytes, file.total_bytes
    return {"encoder_bytes": encoder, "total_bytes": total}


def planned_matrix(
    profile: ModelProfile, index: int, storage: Storage, predicted_loss: float, std_error: float
) -> PlannedMatrix:
    """Describe what one matrix gets."""
    matrix, c = profile.matrices[index], storage.choice
    layout = c.layout(matrix.rows, matrix.columns, heads=profile.heads)
    return PlannedMatrix(
        module=matrix.module,
        name=f"layer {matrix.block + 1} {matrix.kind}",
        kind=matrix.kind,
        block=matrix.block,
        rows=matrix.rows,
        columns=matrix.columns,
        bits=c.bits,
        axis=layout.axis,
        grouping=c.grouping,
        num_groups=layout.num_groups,
        group_size=layout.group_size,
        method=c.method,
        symmetric=c.symmetric,
        zero_dtype=zero_dtype(c.form),
        form=c.form,
        bytes=c.bytes(matrix.rows, matrix.columns, heads=profile.heads),
        residency="resident" if storage.resident else "streamed",
        predicted_loss=predicted_loss,
        std_error=std_error,
    )


def planned_table(scores: ScoreTable, table: TableSpec, c: Choice) -> PlannedTable:
    """Describe what one embedding table gets; its loss is unknown where it was not scored."""
    found = PlannedTable(
        module=table.module,
        rows=table.rows,
        columns=table.columns,
        bits=c.bits,
        grouping=c.grouping,
        method=c.method,
        form=c.form,
        bytes=table_bytes(table, c),
    )
    scored = scores.tables
    if scored is None or table.module not in scored.modules or c.name not in scored.choices:
        return found
    row, column = scored.modules.index(table.module), scored.choices.index(c.name)
    return found.model_copy(
        update={
            "predicted_loss": scored.value[row][column],
            "std_error": scored.std_error[row][column],
            "unseen_rows": scored.unseen_rows[row],
        }
    )


def _device_cost(report: CostReport, workload: Workload) -> DeviceCost:
    return DeviceCost(
        name=report.device,
        seq_len=workload.seq_len,
        batch_size=workload.batch_size,
        latency_s=report.latency_s,
        latency_bound_s=report.latency_bound_s,
        peak_memory_bytes=report.peak_memory_bytes,
        peak_bound_bytes=report.peak_bound_bytes,
        dram_bytes=report.dram_bytes,
        bandwidth_bytes_per_s=report.dram_bandwidth_bytes_per_s,
        energy_j=report.energy_j,
        dynamic_energy_j=report.dynamic_energy_j,
        unpack_s=report.unpack_s,
        confidence=report.confidence,
    )
