"""The engine that a plan is made for: what it supports, what its file holds, and what its products run in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ..engines.file_law import FilePart
from ..engines.rules import EngineRules
from ..engines.session import rules_of
from ..spec.choices import Choice
from ..spec.profiles import MatrixSpec, ModelProfile, TableSpec
from .devices import check_engine

if TYPE_CHECKING:
    from hwmodels import Device


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
        """The user's option and its value, for messages."""
        return f"`engine` {self.name}"

    @property
    def held(self) -> str:
        """How the engine can store matrices, in a few words."""
        return self.rules.held

    @property
    def engines(self) -> tuple[str, ...]:
        """Names of the engines that must run the plan."""
        return (self.name,)

    @property
    def whole_tables(self) -> tuple[str, ...]:
        """Names of the engines that store a table as a whole and cannot split it into tiers."""
        return () if self.rules.tables.tiers else (self.name,)

    @property
    def leaves_inputs(self) -> bool:
        """Whether the engine rounds inputs of matrices in its own way, whatever a plan says."""
        return self.rules.file is not None and not self.rules.static_bits and not self.rules.token_bits

    def runs_on(self, device: Device) -> bool:
        """Return whether a device lists one of the engines; a device without a list accepts any.

        Args:
            device: the hardware.
        """
        return self.rules.anywhere or device.engines is None or not set(self.engines).isdisjoint(device.engines)

    def check_device(self, device: Device) -> None:
        """Check that a device lists one of the engines.

        Args:
            device: the hardware.

        Raises:
            UsageError: the device lists only other engines; the message names them.
        """
        if not self.runs_on(device):
            check_engine(self.engines[0], device)

    def on(self, device: Device) -> Device:
        """Return a device that keeps tensors between operations in as many bits as the engine does.

        Args:
            device: the hardware.
        """
        bits = self.rules.activation_bits
        return device if bits in (None, device.activation_bits) else device.model_copy(update={"activation_bits": bits})

    def part(self, item: MatrixSpec | TableSpec, choice: Choice, heads: int) -> FilePart | None:
        """Return how the engine's file stores a matrix or table; None if the engine opens the quantized folder.

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
        """Return the bytes of everything except matrices and tables; None if the engine opens the quantized folder.

        Args:
            profile: the model.
        """
        return None if self.rules.file is None else self.rules.file.other_bytes(profile)

    def refusal(self, item: MatrixSpec | TableSpec, choice: Choice) -> str | None:
        """Return why the engine cannot run a matrix, or cannot store a table, with a choice; None if it can.

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
        """Return why the engine cannot run a matrix of this width with any choice; None if some choice may work.

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
            input_bits: width of its inputs; None for the width that the engine rounds them to by itself.
        """
        rules = self.rules
        integers = "matmul" in rules.integer_inputs if choice is None else rules.runs_in_integers(choice, input_bits)
        return None if integers else rules.float_type

    def loaded_bits(self, item: MatrixSpec | TableSpec) -> int | None:
        """Return the bits per code in memory, for an engine that expands codes when it starts; None: as stored.

        Args:
            item: shape and role.
        """
        return 8 if self.rules.static_expands and item.module in self.static_inputs else None

    def extra_elements(self, choice: Choice, positions: int, item: MatrixSpec) -> int:
        """Return the elements of extra pointwise passes that a product needs because of how its matrix is stored.

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
            None if it multiplies in floating point, or reads tensors as the device keeps them.
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
