"""How matrices and tables are stored: packed as in the quantized folder, or as in the file of an engine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from hwmodels import StoredWeight

from ..engines.rules import EngineRules
from ..spec.allocation import Allocation
from ..spec.choices import Choice
from ..spec.forms import Form
from ..spec.planned import PlannedActivation, PlannedMatrix, PlannedTable
from ..spec.profiles import MatrixSpec, ModelProfile, TableSpec
from ..spec.tables import TABLE_CHOICE, table_bytes
from .engine_target import EngineTarget

WITHOUT_OFFSET: tuple[Form, ...] = ("symmetric", "signed")


@dataclass(frozen=True, slots=True)
class Storage:
    """How one matrix or table is stored.

    Attributes:
        choice: bits, grouping, form and quantizer.
        resident: whether it stays on chip between inferences.
    """

    choice: Choice
    resident: bool = False


def table_choices(profile: ModelProfile, target: EngineTarget) -> dict[str, Choice]:
    """Return the choices of unscored tables for an engine that cannot store the usual offsets, by module.

    Args:
        profile: the model.
        target: the engine.

    Returns:
        8 bits with a scale per row and no offset, for each table whose usual choice the engine cannot store.
    """
    chosen = {}
    for table in profile.tables:
        if target.refusal(table, TABLE_CHOICE) is not None:
            others = (replace(TABLE_CHOICE, form=form) for form in WITHOUT_OFFSET)
            held = next((other for other in others if target.refusal(table, other) is None), None)
            if held is not None:
                chosen[table.module] = held
    return chosen


def refusal_of_plan(plan: Allocation, target: EngineTarget) -> str | None:
    """Return which matrix, table or input of a plan an engine cannot run, and why; None if it can run all.

    Args:
        plan: the plan.
        target: the engine.
    """
    items: tuple[MatrixSpec | TableSpec, ...] = (*plan.profile.matrices, *plan.profile.tables)
    parts: tuple[PlannedMatrix | PlannedTable, ...] = (*plan.matrices, *plan.tables)
    for item, part in zip(items, parts, strict=True):
        reason = target.refusal(item, part.choice)
        if reason is not None:
            return f"{item.module}: cannot run {reason}"
    return input_refusal(plan.activations, target.rules)


def input_refusal(activations: Iterable[PlannedActivation], rules: EngineRules) -> str | None:
    """Return which rounded input an engine cannot multiply, and why; None if it can multiply all.

    Args:
        activations: how a plan rounds the inputs of matrices.
        rules: rules of the engine.
    """
    for item in activations:
        reason = rules.input_refusal(item.bits)
        if reason is not None:
            return f"{item.modules[0]}: cannot run {reason}"
    return None


def weight_bytes(item: MatrixSpec | TableSpec, choice: Choice, heads: int, target: EngineTarget | None = None) -> int:
    """Return the bytes of a matrix or table, packed or as in the engine's file.

    Args:
        item: shape and role.
        choice: how it is stored.
        heads: attention heads of the model, for `rows:heads`.
        target: the engine; None for packed bytes.
    """
    part = None if target is None else target.part(item, choice, heads)
    if part is not None:
        return part.bytes
    return choice.bytes(item.rows, item.columns, heads=1 if isinstance(item, TableSpec) else heads)


def other_stored_bytes(
    profile: ModelProfile, target: EngineTarget | None = None, searched: Iterable[TableSpec] = ()
) -> int:
    """Return the bytes of everything that is not searched: other tables, other tensors, and an engine's graph.

    Args:
        profile: the model.
        target: the engine; None for packed bytes.
        searched: the embedding tables that are searched.
    """
    modules = {table.module for table in searched}
    tables = [table for table in profile.tables if table.module not in modules]
    own = None if target is None else target.other_bytes(profile)
    if own is None:
        return profile.other_bytes + sum(table_bytes(table, TABLE_CHOICE) for table in tables)
    return own + sum(weight_bytes(table, TABLE_CHOICE, profile.heads, target) for table in tables)


def stored_weight(
    item: MatrixSpec | TableSpec, storage: Storage, heads: int, target: EngineTarget | None = None
) -> StoredWeight:
    """Return a stored matrix or table as the hardware model describes it.

    Args:
        item: shape and role.
        storage: its choice, and whether it is resident on chip.
        heads: attention heads of the model, for `rows:heads`.
        target: the engine whose file it is stored in; None for packed bytes.
    """
    choice = storage.choice
    part = None if target is None else target.part(item, choice, heads)
    if part is not None:
        groups = item.rows * (item.columns // part.group_size if part.group_size else 1)
        axis, size = ("columns", part.group_size) if part.group_size else ("rows", 1)
        return StoredWeight(
            part.bits, axis, groups, size, part.code_bytes, part.range_bytes, storage.resident,
            loaded_bits=None if target is None else target.loaded_bits(item),
        )  # fmt: skip
    layout = choice.layout(item.rows, item.columns, heads=heads)
    return StoredWeight(
        bits=layout.bits,
        axis=layout.axis,
        num_groups=layout.num_groups,
        group_size=layout.group_size,
        code_bytes=choice.code_bytes(item.rows, item.columns),
        metadata_bytes=choice.metadata_bytes(item.rows, item.columns, heads=heads),
        resident=storage.resident,
    )
