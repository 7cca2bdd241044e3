"""The cost of every option of every matrix and embedding table on a device: the coefficients of the integer program.

An option is a choice, streamed or resident; embedding tables are always streamed. The simulator uses the same
`operation_cost`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hwmodels import OperationCost, launches_that_stay_s, operation_cost, unsupported

from ..spec.profiles import MatrixSpec, ModelProfile, TableSpec
from .engine_target import EngineTarget
from .operations import matrix_operation, model_graph, table_operation
from .stored import Storage, other_stored_bytes, stored_weight, weight_bytes
from .workload import Workload

if TYPE_CHECKING:
    from hwmodels import Device

    from ..spec.choices import Choice

DEVICE_ROWS = (
    "dram_bytes",
    "latency_bound_s",
    "latency_floor_s",
    "dynamic_energy_j",
    "bops",
    "scratchpad_bytes",
)


@dataclass(frozen=True, slots=True, eq=False)
class OptionTables:
    """Prices of all options.

    Attributes:
        options: choice and residency of each option, in column order.
        usage: by resource, float64 [items, options], in bytes, seconds, joules or bit operations; without a device only
            bytes; `held_bytes` in memory only where some option takes others there than in the file.
        fixed: by resource, usage of all operations that are not searched.
        masks: why an option is not allowed, by (item index, option index).
    """

    options: tuple[Storage, ...]
    usage: dict[str, NDArray[np.float64]]
    fixed: dict[str, float]
    masks: dict[tuple[int, int], str]


def byte_tables(
    items: Sequence[MatrixSpec | TableSpec],
    options: Sequence[Storage],
    legal: NDArray[np.bool_],
    heads: int,
    target: EngineTarget | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the bytes of each legal option, float64 [items, options]; 0 for other options.

    Args:
        items: matrices and tables.
        options: columns of the tables.
        legal: bool [items, options].
        heads: attention heads of the model.
        target: the engine whose file is counted; None for packed bytes.

    Returns:
        Bytes of weights, and bytes of the engine's graph that depend on the option.
    """
    weights, nodes = np.zeros(legal.shape), np.zeros(legal.shape)
    for i, item in enumerate(items):
        for j in np.flatnonzero(legal[i]).tolist():
            weights[i, j] = weight_bytes(item, options[j].choice, heads, target)
            nodes[i, j] = 0 if target is None else target.node_bytes(item, options[j].choice)
    return weights, nodes


def option_tables(
    profile: ModelProfile,
    choices: Sequence[Choice],
    legal: NDArray[np.bool_],
    device: Device | None,
    workload: Workload,
    tables: Sequence[TableSpec] = (),
    target: EngineTarget | None = None,
) -> OptionTables:
    """Price every option of every item: the matrices, then the searched tables.

    Args:
        profile: the model.
        choices: columns of `legal`.
        legal: bool [items, choices], False where the scores mask a choice.
        device: the hardware; None prices bytes only.
        workload: sentences and tokens of one inference.
        tables: the embedding tables that are searched.
        target: the engine whose file and arithmetic are priced; None for packed bytes on the device as it is.

    Returns:
        Usage of every option, usage of the fixed parts, and reasons why options are masked.
    """
    items: tuple[MatrixSpec | TableSpec, ...] = (*profile.matrices, *tables)
    has_pad = device is not None and device.scratchpad is not None
    options = [Storage(c) for c in choices] + ([Storage(c, resident=True) for c in choices] if has_pad else [])
    legal = np.tile(legal, (1, 2)) if has_pad else legal
    masks: dict[tuple[int, int], str] = {}
    weights, nodes = byte_tables(items, options, legal, profile.heads, target)
    in_encoder = np.arange(len(items))[:, None] < len(profile.matrices)
    usage = {"encoder_bytes": np.where(in_encoder, weights, 0.0), "total_bytes": weights + nodes}
    fixed = _fixed(profile, choices, device, workload, tables, target)
    if device is None:
        return OptionTables(tuple(options), usage, fixed, masks)
    usage |= {row: np.zeros(legal.shape) for row in DEVICE_ROWS}
    expanded = np.zeros(legal.shape)
    seen: dict[tuple[object, ...], OperationCost | str] = {}
    for i, item in enumerate(items):
        wide = workload.input_bits.get(item.module)
        static = target is not None and item.module in target.static_inputs
        how = item.module if isinstance(item, TableSpec) else (item.uses, item.fixed_positions, wide, static)
        for j in np.flatnonzero(legal[i]).tolist():
            key = (item.rows, item.columns, how, j)
            if key not in seen:
                seen[key] = _option_cost(item, options[j], profile.heads, device, workload, target)
            cost = seen[key]
            if isinstance(cost, str):
                masks[i, j] = cost
                continue
            for row in DEVICE_ROWS:
                usage[row][i, j] = getattr(cost, row)
            expanded[i, j] = cost.held_bytes - cost.weight_bytes
    if expanded.any():
        usage["held_bytes"] = usage["total_bytes"] + expanded
    return OptionTables(tuple(options), usage, fixed, masks)


def fixed_costs(
    profile: ModelProfile,
    storage: dict[str, Storage],
    device: Device,
    workload: Workload,
    tables: Sequence[TableSpec] = (),
    target: EngineTarget | None = None,
) -> list[OperationCost]:
    """Return the costs of all operations other than searched matrices and tables.

    Args:
        profile: the model.
        storage: any choice for every matrix; it does not affect the result.
        device: the hardware.
        workload: sentences and tokens of one inference.
        tables: the embedding tables that are searched.
        target: the engine that runs them; None leaves the arithmetic to the device.
    """
    searched = {matrix.module for matrix in profile.matrices} | {table.module for table in tables}
    graph = model_graph(profile, storage, workload, target=target)
    return [operation_cost(op, device) for name, op in graph.nodes(data="op") if name not in searched]


def _option_cost(
    item: MatrixSpec | TableSpec,
    option: Storage,
    heads: int,
    device: Device,
    workload: Workload,
    target: EngineTarget | None,
) -> OperationCost | str:
    weight = stored_weight(item, option, heads, target)
    if isinstance(item, TableSpec):
        if option.resident:
            return "an embedding table is too large and too sparsely read to keep on chip"
        op = table_operation(item, weight, workload)
    else:
        op = matrix_operation(item, weight, workload, option.choice, target)
    return unsupported(op, device) or operation_cost(op, device)


def _fixed(
    profile: ModelProfile,
    choices: Sequence[Choice],
    device: Device | None,
    workload: Workload,
    tables: Sequence[TableSpec],
    target: EngineTarget | None,
) -> dict[str, float]:
    fixed = {"encoder_bytes": 0.0, "total_bytes": float(other_stored_bytes(profile, target, tables))}
    if device is None:
        return fixed
    by_bytes = replace(choices[0], grouping="rows:1")
    storage = {m.module: Storage(by_bytes) for m in profile.matrices}
    costs = fixed_costs(profile, storage, device, workload, tables, target)
    fixed |= {row: math.fsum(getattr(cost, row) for cost in costs) for row in DEVICE_ROWS}
    fixed["held_bytes"] = fixed["total_bytes"] + sum(cost.held_bytes - cost.weight_bytes for cost in costs)
    graph = model_graph(profile, storage, workload, target=target)
    fixed["latency_floor_s"] += launches_that_stay_s(graph, {cost.name: cost for cost in costs}, device)
    return fixed
