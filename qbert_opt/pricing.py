"""What every option of every matrix costs on a device: the tables that the program adds up.

An option is a choice, streamed or resident. The same `operation_cost` prices it here and in the simulator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hwmodels.cost import OperationCost, operation_cost, unsupported

from .operations import Storage, Workload, matrix_operation, model_graph, stored_weight
from .profiles import MatrixSpec, ModelProfile

if TYPE_CHECKING:
    from hwmodels.device import Device

    from .choices import Choice

ROWS = ("encoder_bytes", "dram_bytes", "latency_bound_s", "dynamic_energy_j", "bops", "scratchpad_bytes")


@dataclass(frozen=True, slots=True, eq=False)
class OptionTables:
    """Prices of all options.

    Attributes:
        options: what an option is, in column order.
        usage: by resource, float64 [matrices, options]; the device's rows are absent without a device.
        fixed: by resource, what everything that is not searched uses.
        masks: why an option is not allowed, by (matrix index, option index).
    """

    options: tuple[Storage, ...]
    usage: dict[str, NDArray[np.float64]]
    fixed: dict[str, float]
    masks: dict[tuple[int, int], str]


def byte_table(profile: ModelProfile, options: Sequence[Storage], legal: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return stored bytes of each legal option, float64 [matrices, options]; 0 elsewhere."""
    table = np.zeros(legal.shape)
    for i, matrix in enumerate(profile.matrices):
        for j in np.flatnonzero(legal[i]).tolist():
            table[i, j] = options[j].choice.bytes(matrix.rows, matrix.columns, heads=profile.heads)
    return table


def option_tables(
    profile: ModelProfile,
    choices: Sequence[Choice],
    legal: NDArray[np.bool_],
    device: Device | None,
    workload: Workload,
) -> OptionTables:
    """Price every option of every matrix.

    Args:
        profile: the model.
        choices: columns of `legal`.
        legal: bool [matrices, choices], False where the scores mask a choice.
        device: the hardware; None prices bytes only.
        workload: sentences and tokens of one inference.
    """
    has_pad = device is not None and device.scratchpad is not None
    options = [Storage(c) for c in choices] + ([Storage(c, resident=True) for c in choices] if has_pad else [])
    legal = np.tile(legal, (1, 2)) if has_pad else legal
    masks: dict[tuple[int, int], str] = {}
    usage = {"encoder_bytes": byte_table(profile, options, legal)}
    if device is None:
        return OptionTables(tuple(options), usage, {"encoder_bytes": 0.0}, masks)
    usage |= {row: np.zeros(legal.shape) for row in ROWS[1:]}
    seen: dict[tuple[int, ...], OperationCost | str] = {}
    for i, matrix in enumerate(profile.matrices):
        for j in np.flatnonzero(legal[i]).tolist():
            key = (matrix.rows, matrix.columns, matrix.uses, matrix.fixed_positions, j)
            if key not in seen:
                seen[key] = _option_cost(matrix, options[j], profile.heads, device, workload)
            cost = seen[key]
            if isinstance(cost, str):
                masks[i, j] = cost
                continue
            for row in ROWS[1:]:
                usage[row][i, j] = getattr(cost, row)
    return OptionTables(tuple(options), usage, _fixed(profile, choices, device, workload), masks)


def fixed_costs(
    profile: ModelProfile, storage: dict[str, Storage], device: Device, workload: Workload
) -> list[OperationCost]:
    """Prices of all operations that are no searched matrix; `storage` only has to be complete."""
    searched = {matrix.module for matrix in profile.matrices}
    graph = model_graph(profile, storage, workload)
    return [operation_cost(op, device) for name, op in graph.nodes(data="op") if name not in searched]


def _option_cost(
    matrix: MatrixSpec, option: Storage, heads: int, device: Device, workload: Workload
) -> OperationCost | str:
    op = matrix_operation(matrix, stored_weight(matrix, option, heads), workload)
    return unsupported(op, device) or operation_cost(op, device)


def _fixed(profile: ModelProfile, choices: Sequence[Choice], device: Device, workload: Workload) -> dict[str, float]:
    by_bytes = replace(choices[0], grouping="rows:1")
    costs = fixed_costs(profile, {m.module: Storage(by_bytes) for m in profile.matrices}, device, workload)
    fixed = {row: math.fsum(getattr(cost, row) for cost in costs) for row in ROWS[1:]}
    fixed["encoder_bytes"] = 0.0
    return fixed
