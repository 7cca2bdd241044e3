"""Entries of a plan: one matrix, one table, the cost on a device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..costs.stored import Storage
from ..costs.workload import Workload
from ..spec.cache import cache_bytes
from ..spec.choices import Choice
from ..spec.forms import zero_dtype
from ..spec.planned import (
    DecodeCost,
    DeviceCost,
    PlannedMatrix,
    PlannedTable,
)
from ..spec.profiles import ModelProfile, TableSpec
from ..spec.scores import ScoreTable
from ..spec.tables import table_bytes

if TYPE_CHECKING:
    from hwmodels import CostReport


def planned_matrix(
    profile: ModelProfile, index: int, storage: Storage, predicted_loss: float, std_error: float
) -> PlannedMatrix:
    """Return one matrix's entry in the plan.

    Args:
        profile: shapes of the model.
        index: place of the matrix in `profile.matrices`.
        storage: its choice and residency.
        predicted_loss: its score under that choice.
        std_error: standard error of the score.
    """
    matrix, c = profile.matrices[index], storage.choice
    layout = c.layout(matrix.rows, matrix.columns, heads=profile.heads_of(matrix))
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
        bytes=c.bytes(matrix.rows, matrix.columns, heads=profile.heads_of(matrix)),
        residency="resident" if storage.resident else "streamed",
        predicted_loss=predicted_loss,
        std_error=std_error,
    )


def planned_table(scores: ScoreTable, table: TableSpec, c: Choice) -> PlannedTable:
    """Return one embedding table's entry in the plan, without a predicted loss if its choice was not scored.

    Args:
        scores: predicted losses.
        table: shape of the table.
        c: its choice.
    """
    planned = PlannedTable(
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
        return planned
    row, column = scored.modules.index(table.module), scored.choices.index(c.name)
    return planned.model_copy(
        update={
            "predicted_loss": scored.value[row][column],
            "std_error": scored.std_error[row][column],
            "unseen_rows": scored.unseen_rows[row],
        }
    )


def device_cost(profile: ModelProfile, report: CostReport, token: CostReport | None, workload: Workload) -> DeviceCost:
    """Return a plan's cost on a device.

    Args:
        profile: shapes of the model.
        report: the simulator's report, of a decoder's prompt.
        token: the simulator's report of a decoder's token; None for an encoder.
        workload: sentences and tokens of one inference, as simulated.
    """
    run = report if token is None else token
    return DeviceCost(
        name=report.device,
        seq_len=workload.seq_len,
        batch_size=workload.batch_size,
        latency_s=report.latency_s,
        latency_bound_s=report.latency_bound_s,
        peak_memory_bytes=max(report.peak_memory_bytes, run.peak_memory_bytes),
        peak_bound_bytes=max(report.peak_bound_bytes, run.peak_bound_bytes),
        dram_bytes=run.dram_bytes,
        bandwidth_bytes_per_s=run.dram_bandwidth_bytes_per_s,
        energy_j=run.energy_j,
        dynamic_energy_j=run.dynamic_energy_j,
        unpack_s=run.unpack_s,
        confidence=report.confidence,
        decode=None if token is None else _decode_cost(profile, token, workload),
    )


def _decode_cost(profile: ModelProfile, token: CostReport, workload: Workload) -> DecodeCost:
    context = workload.context or 1
    return DecodeCost.model_validate(
        {
            "context": context,
            "cache_bytes": cache_bytes(profile, workload.batch_size * context, workload.cache_bits),
            "token_s": token.latency_s,
            "token_bound_s": token.latency_bound_s,
            "tokens_per_s": 1 / token.latency_s,
        }
    )
