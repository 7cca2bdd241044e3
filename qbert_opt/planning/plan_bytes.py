"""The bytes of a plan: packed in the quantized folder, and in the file of the engine it is made for."""

from __future__ import annotations

from collections.abc import Mapping

from ..costs.engine_target import EngineTarget
from ..costs.stored import Storage, other_stored_bytes, weight_bytes
from ..spec.planned import EngineFile
from ..spec.profiles import ModelProfile
from ..spec.tables import table_bytes, table_choice


def stored_bytes(profile: ModelProfile, storage: Mapping[str, Storage]) -> int:
    """Return the bytes of the searched matrices.

    Args:
        profile: shapes of the model.
        storage: how each matrix is stored, by module.
    """
    return sum(storage[m.module].choice.bytes(m.rows, m.columns, heads=profile.heads_of(m)) for m in profile.matrices)


def total_stored_bytes(profile: ModelProfile, storage: Mapping[str, Storage]) -> int:
    """Return the bytes of the whole stored model.

    Args:
        profile: shapes of the model.
        storage: how each matrix and searched table is stored, by module; other tables have 8 bits.
    """
    tables = sum(table_bytes(table, table_choice(storage, table.module)) for table in profile.tables)
    return stored_bytes(profile, storage) + tables + profile.other_bytes


def engine_file(profile: ModelProfile, storage: Mapping[str, Storage], target: EngineTarget) -> EngineFile:
    """Return the bytes of a plan in its engine's own file.

    Args:
        profile: the model.
        storage: how each matrix and table is stored, by module.
        target: the engine.
    """
    encoder = sum(weight_bytes(m, storage[m.module].choice, profile.heads_of(m), target) for m in profile.matrices)
    nodes = sum(target.node_bytes(m, storage[m.module].choice) for m in profile.matrices)
    tables = [
        weight_bytes(table, table_choice(storage, table.module), profile.heads, target) for table in profile.tables
    ]
    rest = other_stored_bytes(profile, target, profile.tables)
    floats = profile.other_bytes if target.other_bytes(profile) is None else profile.read_bytes
    graph = nodes + rest - floats
    return EngineFile(
        name=target.name, encoder_bytes=encoder, total_bytes=encoder + sum(tables) + rest + nodes, graph_bytes=graph
    )


def limited_bytes(profile: ModelProfile, storage: Mapping[str, Storage], target: EngineTarget | None) -> dict[str, int]:
    """Return the bytes that limits count: in the file of the plan's engine, or packed bytes without an engine.

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
