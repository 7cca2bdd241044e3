"""How matrices and tables are stored: packed as in the quantized folder, or as in the file of an engine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from hwmodels import StoredWeight

from ..engines.file_law import FilePart
from ..engines.rules import EngineRules
from ..engines.session import rules_of
from ..spec.allocation import Allocation
from ..spec.choices import Choice
from ..spec.forms import Form
from ..spec.planned import PlannedMatrix, PlannedTable
from ..spec.profiles import MatrixSpec, ModelProfile, TableSpec
from ..spec.tables import TABLE_CHOICE, table_bytes
from .devices import check_engine

if TYPE_CHECKING:
    from hwmodels import Device

WITHOUT_OFFSET: tuple[Form, ...] = ("symmetric", "signed")


@dataclass(frozen=True, slots=True)
class Storage:
    """How one matrix or table is stored, and whether it stays on chip between inferences."""

    choice: Choice
    resident: bool = False


@dataclass(frozen=True, slots=True)
class EngineTarget:
    """The engine that a plan is made for.

    Attributes:
        name: the engine.
        rules: what it supports.
        static_inputs: modules of matrices whose inputs have a static range.
    """

    name: str
    rules: EngineRules = field(hash=False)
    static_inputs: frozenset[str] = frozenset()

    @property
    def said(self) -> str:
        """What the user gave."""
        return f"`engine` {self.name}"

    @property
    def held(self) -> str:
        """What matrices may be, in a few words."""
        return self.rules.held

    @property
    def engines(self) -> tuple[str, ...]:
        """Names of the engines that must run the plan."""
        return (self.name,)

    @property
    def whole_tables(self) -> tuple[str, ...]:
        """Names of the engines that hold a table as a whole, not in tiers."""
        return () if self.rules.tables.tiers else (self.name,)

    @property
    def leaves_inputs(self) -> bool:
        """Whether inputs of matrices are rounded in the engine's own way, whatever a plan says."""
        return self.rules.file is not None and not self.rules.static_bits and not self.rules.token_bits

    def runs_on(self, device: Device) -> bool:
        """Return whether a device lists one of the engines; a device without a list accepts any.

        Args:
            device: the hardware.
        """
        return self.rules.anywhere or device.engines is None or not set(self.engines).isdisjoint(device.engines)

    def check_device(self, device: Device) -> None:
        """Check that a device lists one of the engines.

        Raises:
            UsageError: the device lists others only; the message names them.
        """
        if not self.runs_on(device):
            check_engine(self.engines[0], device)

    def on(self, device: Device) -> Device:
        """Return a device with the tensors between operations as wide as the engine keeps them.

        Args:
            device: the hardware.
        """
        bits = self.rules.activation_bits
        return device if bits in (None, device.activation_bits) else device.model_copy(update={"activation_bits": bits})

    def part(self, item: MatrixSpec | TableSpec, choice: Choice, heads: int) -> FilePart | None:
        """Return what a matrix or table is in the engine's file; None if the engine opens the quantized folder.

        Args:
            item: shape and role.
            choice: how it is stored.
            heads: attention heads of the model, for `rows:heads`.
        """
        law = self.rules.file
        if law is None:
            return None
        if isinstance(item, TableSpec):
            return law.table(choice, item.rows, item.columns)
        static = item.module in self.static_inputs
        return law.matrix(choice, item.rows, item.columns, heads=heads, static_input=static)

    def node_bytes(self, item: MatrixSpec | TableSpec, choice: Choice) -> int:
        """Return the bytes of the graph's nodes that depend on the choice.

        Args:
            item: shape and role.
            choice: how it is stored.
        """
        if self.rules.file is None or isinstance(item, TableSpec):
            return 0
        static = item.module in self.static_inputs
        return max(1, item.uses) * self.rules.file.node_bytes(choice, static_input=static)

    def other_bytes(self, profile: ModelProfile) -> int | None:
        """Return the bytes of everything but matrices and tables; None if the engine opens the quantized folder.

        Args:
            profile: the model.
        """
        return None if self.rules.file is None else self.rules.file.other_bytes(profile)

    def refusal(self, item: MatrixSpec | TableSpec, choice: Choice) -> str | None:
        """Return why the engine cannot run a matrix or hold a table stored by a choice; None if it can.

        Args:
            item: shape and role.
            choice: how it is stored.
        """
        if isinstance(item, TableSpec):
            if item.tier_of and self.whole_tables:
                return f"a tier of {item.tier_of}; it holds tables as a whole"
            return self.rules.table_refusal(choice, item.columns)
        static = item.module in self.static_inputs
        return self.rules.refusal(choice, (item.rows, item.columns), static_input=static)

    def width_refusal(self, item: MatrixSpec | TableSpec) -> str | None:
        """Return why no choice makes a matrix fit, because of its width; None if some may.

        Args:
            item: shape and role.
        """
        if isinstance(item, TableSpec):
            return None
        return self.rules.width_refusal(item.columns, static_input=item.module in self.static_inputs)

    def arithmetic(self, choice: Choice | None, input_bits: int | None = None) -> Literal["fp32", "fp16"] | None:
        """Return the floating-point type that a product runs in; None if it runs in integers.

        Args:
            choice: how its weights are stored; None for a product of two activations.
            input_bits: width of its inputs; None for what the engine rounds them to by itself.
        """
        rules = self.rules
        integers = "matmul" in rules.integer_inputs if choice is None else rules.runs_in_integers(choice, input_bits)
        return None if integers else rules.float_type

    def loaded_bits(self, item: MatrixSpec | TableSpec) -> int | None:
        """Return the bits of a code while the engine runs, where it expands them when it starts; None as stored.

        Args:
            item: shape and role.
        """
        return 8 if self.rules.static_expands and item.module in self.static_inputs else None

    def extra_elements(self, choice: Choice, positions: int, item: MatrixSpec) -> int:
        """Return the elements of pointwise passes that come with a product because of how its matrix is stored.

        Args:
            choice: how the matrix is stored.
            positions: rows of its input.
            item: its shape.
        """
        if choice.form != "offset" or not self.rules.adds_offsets:
            return 0
        return positions * (item.columns + 2 * item.rows)

    def read_bits(self, choice: Choice) -> int | None:
        """Return the width of the integers that the engine itself rounds a matrix's inputs to.

        Args:
            choice: how the matrix is stored.

        Returns:
            None where it multiplies in floating point, or reads tensors as the device keeps them.
        """
        if self.rules.activation_bits is None or self.arithmetic(choice) is not None:
            return None
        return min(self.rules.integer_inputs.get("gemm", ()), default=None)


def engine_target(name: str | None, static_inputs: Iterable[str] = ()) -> EngineTarget | None:
    """Return the engine of that name as the target of a plan; None for no name.

    Args:
        name: the engine; its package need not be installed.
        static_inputs: modules of matrices whose inputs have a static range.

    Raises:
        UsageError: there is no such engine.
    """
    return None if name is None else EngineTarget(name, rules_of(name), frozenset(static_inputs))


def table_choices(profile: ModelProfile, target: EngineTarget) -> dict[str, Choice]:
    """Return what unscored tables have for an engine that does not hold the usual offsets, by module.

    Args:
        profile: the model.
        target: the engine.

    Returns:
        8 bits per row in a form without offset, for each table whose usual choice the engine cannot hold.
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
    """Return which matrix or table of a plan an engine cannot run, and why; None if it runs all.

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
