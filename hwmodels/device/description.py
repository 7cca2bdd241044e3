"""The description of a device: memories, compute units, formats and limits, and what follows directly from them."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field, StrictBool

from .fields import Frozen, Line, Name
from .parts import MOST_PARTS, DeviceLimits, Format, Memory, Power, PowerMode, Provenance, Reserved, Rule, Unit
from .units import format_bytes
from .vocabulary import OPERATION_KINDS


class Device(Frozen):
    """One device. The first unit that supports an operation runs it; activations are stored in `activation_bits`.

    Attributes:
        confidence: how far predicted latency can be trusted: "theoretical", "partly-measured" or "calibrated".
        interval: lowest and highest measured / predicted latency; the default depends on `confidence`.
        memories: all memories; each unit's `path` names those that feed it.
        reserved: memory that other software occupies.
        engines: names of the inference engines that run on it; empty if none does, None if that is unknown.
        provenance: pattern of a figure's path -> its source; the most specific pattern wins.
    """

    schema_: Literal["qbert-opt/device@1"] = Field(alias="schema")
    id: Name
    name: Annotated[Line, Field(min_length=1, max_length=200)]
    year: Annotated[int, Field(strict=True, ge=1990, le=2100)] | None = None
    automotive: StrictBool = False
    confidence: Literal["theoretical", "partly-measured", "calibrated"]
    interval: (
        tuple[Annotated[float, Field(strict=True, ge=0.01, le=1)], Annotated[float, Field(strict=True, ge=1, le=100)]]
        | None
    ) = None
    activation_bits: Literal[8, 16, 32]
    memories: Annotated[tuple[Memory, ...], Field(min_length=1, max_length=MOST_PARTS)]
    units: Annotated[tuple[Unit, ...], Field(min_length=1, max_length=MOST_PARTS)]
    formats: Annotated[tuple[Format, ...], Field(min_length=1, max_length=MOST_PARTS)]
    rules: Annotated[tuple[Rule, ...], Field(max_length=MOST_PARTS)] = ()
    power: Power
    power_modes: tuple[PowerMode, ...] = ()
    reserved: tuple[Reserved, ...] = ()
    limits: DeviceLimits = DeviceLimits()
    engines: Annotated[tuple[Name, ...], Field(max_length=MOST_PARTS)] | None = None
    provenance: Annotated[dict[str, Provenance], Field(max_length=1000)]

    def __str__(self) -> str:
        """Return the device in one line."""
        memories = ", ".join(f"{memory.id} {format_bytes(memory.size_bytes)}" for memory in self.memories)
        return f"{self.id}: {self.name}; {memories}; {self.confidence}"

    def __repr__(self) -> str:
        """Return one line."""
        units = tuple(unit.id for unit in self.units)
        return f"Device({self.id!r}, units={units}, memories={len(self.memories)}, confidence={self.confidence!r})"

    def memory(self, memory_id: str) -> Memory:
        """Return the memory of that id.

        Args:
            memory_id: id of a memory.
        """
        return next(memory for memory in self.memories if memory.id == memory_id)

    def path(self, unit: Unit) -> tuple[Memory, ...]:
        """Return the memories that feed a unit, nearest first.

        Args:
            unit: one of the device's units.
        """
        return tuple(self.memory(memory_id) for memory_id in unit.path)

    @property
    def scratchpad(self) -> Memory | None:
        """The memory for resident weights: the farthest scratchpad on the first unit's path."""
        pads = [memory for memory in self.path(self.units[0]) if memory.kind == "scratchpad"]
        return pads[-1] if pads else None

    @cached_property
    def encoder_units(self) -> frozenset[str]:
        """Ids of the units that an encoder needs: for each kind of operation the first that is rated for it."""
        return frozenset(
            next((unit.id for unit in self.units for rate in unit.rates if rate.op == kind), self.units[0].id)
            for kind in OPERATION_KINDS
        )

    def hands_over_in(self, memory: Memory) -> bool:
        """Whether every unit that an encoder needs can reach activations in an on-chip memory.

        An NPU that lacks an operation and shares only DRAM with the processor that runs it hands over in DRAM.

        Args:
            memory: one of the device's memories.
        """
        return all(memory.id in unit.path for unit in self.units if unit.id in self.encoder_units)

    @property
    def far_memory(self) -> Memory:
        """The memory that weights are streamed from: the last on the first unit's path."""
        return self.path(self.units[0])[-1]

    @property
    def available_bytes(self) -> int:
        """Bytes of the far memory that a model may fill: its usable share, less what others reserve beyond that."""
        far = self.far_memory
        reserved = sum(part.size_bytes for part in self.reserved if part.memory == far.id)
        return min(far.usable_bytes, far.size_bytes - reserved)

    @property
    def latency_interval(self) -> tuple[float, float]:
        """Lowest and highest measured / predicted latency to expect.

        The defaults reflect the error of rooflines on real processors: they underestimate latency by up to a factor of
        three without calibration and of two with measured peaks.
        """
        default = {"theoretical": (0.5, 3.0), "partly-measured": (0.6, 2.0), "calibrated": (0.9, 1.1)}
        return self.interval or default[self.confidence]
