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

from hwmodels import OperationCost, launches_that_stay_s, operation_cost, operation_costs, unsupported

from ..spec.profiles import HeadSpec, MatrixSpec, ModelProfile, TableSpec
from .engine_target import EngineTarget
from .operations import head_operation, matrix_operation, model_graph, table_operation
from .stored import Storage, other_stored_bytes, stored_weight, weight_bytes
from .workload import Workload

if TYPE_CHECKING:
    import networkx as nx

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
TOKEN_ROWS = ("dram_s", "unhidden_s")  # additional rows in phase `decode`, for its lower bounds


@dataclass(frozen=True, slots=True)
class Priced:
    """An operation's cost, and its kind."""

    cost: OperationCost
    kind: str


@dataclass(frozen=True, slots=True, eq=False)
class OptionTables:
    """Prices of all options.

    Attributes:
        options: choice and residency of each option, in column order.
        usage: by resource, float64 [items, options], in bytes, seconds, joules or bit operations; without a device only
            bytes. `held_bytes`, the bytes in memory, exists only if they differ from those in the file for some option.
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
    profile: ModelProfile,
    target: EngineTarget | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the bytes of each legal option, float64 [items, options]; 0 for other options.

    Args:
        items: matrices and tables.
        options: columns of the tables.
        legal: bool [items, options].
        profile: the model that the items belong to.
        target: the engine whose file is counted; None for packed bytes.

    Returns:
        Bytes of weights, and bytes of the engine's graph that depend on the option.
    """
    weights, nodes = np.zeros(legal.shape), np.zeros(legal.shape)
    rows: dict[tuple[object, ...], tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    for i, item in enumerate(items):
        key = (item.rows, item.columns, *_likeness(item, target), legal[i].tobytes())
        if key not in rows:
            own, graph = rows[key] = np.zeros(legal.shape[1]), np.zeros(legal.shape[1])
            for j in np.flatnonzero(legal[i]).tolist():
                own[j] = weight_bytes(item, options[j].choice, profile.heads_of(item), target)
                graph[j] = 0 if target is None else target.node_bytes(item, options[j].choice)
        weights[i], nodes[i] = rows[key]
    return weights, nodes


def _likeness(item: MatrixSpec | TableSpec, target: EngineTarget | None) -> tuple[object, ...]:
    """Return what the prices of an item depend on besides its shape and the width of its inputs."""
    if isinstance(item, TableSpec):
        return (item.module,)
    return item.kind, item.uses, item.fixed_positions, target is not None and item.module in target.static_inputs


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
    weights, nodes = byte_tables(items, options, legal, profile, target)
    in_encoder = np.arange(len(items))[:, None] < len(profile.matrices)
    usage = {"encoder_bytes": np.where(in_encoder, weights, 0.0), "total_bytes": weights + nodes}
    fixed = _fixed(profile, choices, device, workload, tables, target)
    if device is None:
        return OptionTables(tuple(options), usage, fixed, masks)
    rows = DEVICE_ROWS + (TOKEN_ROWS if workload.phase == "decode" else ())
    usage |= {row: np.zeros(legal.shape) for row in rows}
    expanded = np.zeros(legal.shape)
    seen: dict[tuple[object, ...], _ItemPrices] = {}
    for i, item in enumerate(items):
        wide = workload.input_bits.get(item.module)
        key = (item.rows, item.columns, wide, *_likeness(item, target), legal[i].tobytes())
        if key not in seen:
            seen[key] = _item_prices(item, options, legal[i], rows, profile, device, workload, target)
        own = seen[key]
        for row in rows:
            usage[row][i] = own.usage[row]
        expanded[i] = own.expanded
        masks |= {(i, j): reason for j, reason in own.masks.items()}
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
    graph = model_graph(profile, storage, workload, target=target)
    return [priced.cost for priced in _fixed_operations(graph, profile, device, tables)]


def _fixed_operations(
    graph: nx.DiGraph, profile: ModelProfile, device: Device, tables: Sequence[TableSpec]
) -> list[Priced]:
    searched = {matrix.module for matrix in profile.matrices} | {table.module for table in tables}
    searched |= {spec.module for table in tables for spec in _tied_heads(profile, table)}
    ops = [op for name, op in graph.nodes(data="op") if name not in searched]
    costs = operation_costs(ops, device)
    return [Priced(costs[op.name], op.kind) for op in ops]


def _tied_heads(profile: ModelProfile, table: TableSpec) -> list[HeadSpec]:
    """Return a decoder's heads that are tied to a table: they read its weights, as stored, in every step."""
    return [spec for spec in profile.head if profile.causal and spec.tied_to == table.module]


def _option_costs(
    item: MatrixSpec | TableSpec,
    option: Storage,
    profile: ModelProfile,
    device: Device,
    workload: Workload,
    target: EngineTarget | None,
) -> list[Priced] | str:
    """Return the costs of the operations that read an item, its own first; or why the device cannot run one of them."""
    weight = stored_weight(item, option, profile.heads_of(item), target)
    if isinstance(item, TableSpec):
        if option.resident:
            return "an embedding table is too large and too sparsely read to keep on chip"
        shared = replace(weight, stored_elsewhere=True)
        ops = [table_operation(item, weight, workload)]
        ops += [head_operation(spec, shared, workload, causal=True) for spec in _tied_heads(profile, item)]
    else:
        ops = [matrix_operation(item, weight, workload, option.choice, target)]
    refusal = next(filter(None, (unsupported(op, device) for op in ops)), None)
    return refusal or [Priced(operation_cost(op, device), op.kind) for op in ops]


@dataclass(frozen=True, slots=True, eq=False)
class _ItemPrices:
    """Prices of every option of items that are alike: rows of `OptionTables`."""

    usage: dict[str, NDArray[np.float64]]
    expanded: NDArray[np.float64]
    masks: dict[int, str]


def _item_prices(
    item: MatrixSpec | TableSpec,
    options: Sequence[Storage],
    legal: NDArray[np.bool_],
    rows: Sequence[str],
    profile: ModelProfile,
    device: Device,
    workload: Workload,
    target: EngineTarget | None,
) -> _ItemPrices:
    usage = {row: np.zeros(len(options)) for row in rows}
    expanded, masks = np.zeros(len(options)), {}
    for j in np.flatnonzero(legal).tolist():
        found = _option_costs(item, options[j], profile, device, workload, target)
        if isinstance(found, str):
            masks[j] = found
            continue
        for row in rows:
            usage[row][j] = _total(found, row, device)
        expanded[j] = found[0].cost.held_bytes - found[0].cost.weight_bytes
    return _ItemPrices(usage, expanded, masks)


def _total(found: Sequence[Priced], row: str, device: Device) -> float:
    """Add up one resource of several operations."""
    if row == "unhidden_s":
        return math.fsum(_unhidden_s(priced, device) for priced in found)
    return math.fsum(getattr(priced.cost, row) for priced in found)


def _unhidden_s(priced: Priced, device: Device) -> float:
    """Return the latency on the device's first unit without prefetching, and without a launch that may be fused away.

    One unit runs one operation at a time. On a device without a scratchpad to prefetch into, the sum over all
    operations is therefore a lower bound on the latency of every schedule.
    """
    unit, cost = device.units[0], priced.cost
    if cost.unit != unit.id:
        return 0.0
    fuses = any(priced.kind == second for _, second in unit.fuses)
    return cost.latency_bound_s - (cost.launch_s if fuses else 0.0)


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
    graph = model_graph(profile, storage, workload, target=target)
    found = _fixed_operations(graph, profile, device, tables)
    costs = [priced.cost for priced in found]
    rows = DEVICE_ROWS + (TOKEN_ROWS if workload.phase == "decode" else ())
    fixed |= {row: _total(found, row, device) for row in rows}
    fixed["held_bytes"] = fixed["total_bytes"] + sum(cost.held_bytes - cost.weight_bytes for cost in costs)
    stays_s = launches_that_stay_s(graph, {cost.name: cost for cost in costs}, device)
    fixed |= {row: fixed[row] + stays_s for row in ("latency_floor_s", "unhidden_s") if row in fixed}
    return fixed
