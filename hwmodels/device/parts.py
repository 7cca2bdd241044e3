"""The pieces of a device: memories, compute units, formats, power, limits, provenance.

In the file every figure with a dimension is a string with its unit; here it is an SI number and the unit is
in the attribute's name. Figures without a dimension (cores, cycles, shares between 0 and 1) are plain
numbers.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool

from .efficiency import EfficiencyGrid
from .fields import (
    Bandwidth,
    Bytes,
    BytesOrZero,
    Count,
    Cycles,
    DataRate,
    Frequency,
    Frozen,
    Joules,
    JoulesOrZero,
    JoulesPerBit,
    Line,
    Name,
    PerCycle,
    Rows,
    Seconds,
    SecondsOrZero,
    Share,
    Watts,
)
from .vocabulary import FLOAT_TYPES, Axis, NumberType, OperationKind

MOST_PARTS = 256  # of a kind; a device has a dozen, and checks compare each with each


class Dram(Frozen):
    """Data rate and bus width of a DRAM; its peak bandwidth is `data_rate` x `bus_bits` / 8."""

    data_rate_per_s: DataRate = Field(alias="data_rate")
    bus_bits: Count


class Memory(Frozen):
    """One level of memory. A "per_core" memory exists `instances` times and its sizes and rates add up.

    A transfer runs at bandwidth x `efficiency` (the share that the controller reaches) x `contention` (the share that
    other software leaves free). `usable` is the share of the size that a model may fill.
    """

    id: Name
    kind: Literal["cache", "scratchpad", "dram", "flash"]
    size_bytes: Bytes = Field(alias="size")
    scope: Literal["per_core", "cluster", "shared"] = "shared"
    instances: Count = 1
    read_bytes_per_s: Bandwidth = Field(alias="read_bw")
    write_bytes_per_s: Bandwidth | None = Field(alias="write_bw", default=None, description="as read_bw if absent")
    latency_s: SecondsOrZero = Field(alias="latency")
    efficiency: Share = 1.0
    contention: Share = 1.0
    usable: Share = 1.0
    energy_j_per_bit: JoulesPerBit = Field(alias="energy")
    dram: Dram | None = None

    @property
    def usable_bytes(self) -> int:
        """Bytes that a model may fill, all instances of a per-core memory together."""
        return int(self.size_bytes * self.usable) * self._copies

    @property
    def _copies(self) -> int:
        return self.instances if self.scope == "per_core" else 1

    def transfer_s(self, read_bytes: float, written_bytes: float) -> float:
        """Return the seconds of a transfer: bytes / derated bandwidth + one latency; 0 for no bytes.

        Args:
            read_bytes: bytes read from this memory.
            written_bytes: bytes written to it.
        """
        if not read_bytes and not written_bytes:
            return 0.0
        derate = self.efficiency * self.contention * self._copies
        write_bytes_per_s = self.write_bytes_per_s or self.read_bytes_per_s
        return (
            read_bytes / (self.read_bytes_per_s * derate)
            + written_bytes / (write_bytes_per_s * derate)
            + self.latency_s
        )


class Rate(Frozen):
    """How fast a unit runs one kind of operation.

    `per_cycle` counts multiply-accumulates (gemm, matmul) or elements (other kinds) per cycle and core, and
    `efficiency` is the share of it that the unit reaches. Sizes m, n, k are rounded up to multiples of `tile`.
    `efficiency_by_rows` (m: efficiency), interpolated in log m, replaces `efficiency`; `efficiency_by_shape` replaces
    both. `launch` replaces the unit's own launch overhead for this kind of operation.
    """

    op: OperationKind
    type: NumberType | None = None
    per_cycle: PerCycle
    efficiency: Share = 1.0
    efficiency_by_rows: dict[Rows, Share] = Field(default_factory=dict)
    efficiency_by_shape: EfficiencyGrid | None = None
    launch_s: SecondsOrZero | None = Field(alias="launch", default=None)
    tile: tuple[Count, Count, Count] = (1, 1, 1)


class IntegerRates(Frozen):
    """Elementary operations on 32-bit integers per cycle and core; what is absent the unit does not have.

    Nonlinear functions in integers (softmax, LayerNorm, GELU) are priced by how many of these an element takes.

    Attributes:
        multiplies: products of two integers.
        additions: additions, shifts, comparisons and whatever else is one simple instruction.
        table_reads: reads from a table at computed places.
        divisions: divisions by a number that is not known in advance.
        table_bytes: memory for the tables of one function; absent, the nearest memory holds them.
    """

    multiplies: PerCycle | None = None
    additions: PerCycle | None = None
    table_reads: PerCycle | None = None
    divisions: PerCycle | None = None
    table_bytes: Bytes | None = Field(alias="tables", default=None)


class Unit(Frozen):
    """A compute unit and the memories from nearest to farthest that feed it.

    With `double_buffer` compute and DRAM transfers overlap; without it their times add up.

    Attributes:
        floating_point: whether it can compute in floating point; absent, a CPU or GPU can, and any other unit that has
            a rate for a floating-point type.
        integers: elementary integer operations, which nonlinear functions in integers need.
    """

    id: Name
    kind: Literal["cpu", "npu", "dsp", "gpu"]
    cores: Count
    clock_hz: Frequency = Field(alias="clock")
    path: Annotated[tuple[Name, ...], Field(min_length=1, max_length=MOST_PARTS)]
    launch_s: SecondsOrZero = Field(alias="launch")
    double_buffer: StrictBool
    energy_mac_j: dict[NumberType, Joules] = Field(alias="energy_mac")
    energy_element_j: JoulesOrZero = Field(alias="energy_element")
    rates: Annotated[tuple[Rate, ...], Field(min_length=1, max_length=MOST_PARTS)]
    fuses: tuple[tuple[OperationKind, OperationKind], ...] = ()
    floating_point: StrictBool | None = None
    integers: IntegerRates | None = None

    @property
    def has_floats(self) -> bool:
        """Whether it can compute in floating point."""
        if self.floating_point is not None:
            return self.floating_point
        return self.kind in ("cpu", "gpu") or any(rate.type in FLOAT_TYPES for rate in self.rates)


class Format(Frozen):
    """A way of storing weights that a unit can run.

    Attributes:
        weight_bits: bits of one code.
        axis: "rows", "columns" or "none" (floats), as in `StoredWeight`.
        row_groups: legal numbers of row groups; empty for any, "every-row" for one group per row (per-channel).
        group_sizes: legal inputs per group for "columns" (group-wise).
        compute: the type that the unit multiplies in, or the one that holds the inputs where they are wider integers.
            "int4" multiplies only inputs that a plan rounds to 4 bits; the others run as "int8".
        how: "native" (the unit reads the codes), "dequant" (multiply and add) or "lut" (a lookup table per group).
        table_entries: entries of a group's table where `how` is "lut".
        unpack_cycles_per_weight: cycles of one core to convert one code to the compute type.
        unpack_cycles_per_group: cycles to fetch one group's scale or build its table.
        efficiency_by_rows: rows m -> efficiency of the product in this format; replaces the rate's own.
        efficiency_by_shape: the same over rows, inputs and outputs; replaces both.
        loaded_bits: bits of one weight in memory while the engine runs, scales included, for engines that unpack
            weights when they load them; as stored if absent.
        k_multiple: the inputs must be a multiple of this.
        n_multiple: the outputs must be a multiple of this.
    """

    id: Name
    weight_bits: Annotated[int, Field(strict=True, ge=1, le=32)]
    axis: Axis
    row_groups: tuple[Count | Literal["every-row"], ...] = ()
    group_sizes: tuple[Count, ...] = ()
    compute: NumberType
    units: Annotated[tuple[Name, ...], Field(min_length=1, max_length=MOST_PARTS)]
    how: Literal["native", "dequant", "lut"]
    table_entries: Count | None = None
    unpack_cycles_per_weight: Cycles = 0.0
    unpack_cycles_per_group: Cycles = 0.0
    efficiency_by_rows: dict[Rows, Share] = Field(default_factory=dict)
    efficiency_by_shape: EfficiencyGrid | None = None
    loaded_bits: Annotated[int, Field(strict=True, ge=1, le=32)] | None = None
    k_multiple: Count = 1
    n_multiple: Count = 1


class Power(Frozen):
    """Static power, and the thermal design power that the chip must not exceed."""

    static_w: Watts = Field(alias="static")
    tdp_w: Watts = Field(alias="tdp")


class PowerMode(Frozen):
    """What a named power mode changes: clocks and cores of units, bandwidth of memories, and the power itself."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,31}$")]
    tdp_w: Watts = Field(alias="tdp")
    static_w: Watts | None = Field(alias="static", default=None)
    clocks_hz: dict[Name, Frequency] = Field(alias="clocks", default_factory=dict)
    cores: dict[Name, Count] = Field(default_factory=dict)
    read_bytes_per_s: dict[Name, Bandwidth] = Field(alias="read_bw", default_factory=dict)


class Rule(Frozen):
    """A case that an engine refuses or computes wrongly although the unit could run it; all given conditions must hold.

    Attributes:
        id: name of the rule.
        bits: bit widths that it applies to; empty for all.
        axis: axis that it applies to; None for all.
        group_sizes: inputs per group that it applies to; empty for all.
        ragged: only where the last group of a row would be incomplete.
        outputs_below: only for matrices with fewer outputs.
        because: what goes wrong.
        source: where that is documented or was observed.
    """

    id: Name
    bits: tuple[Count, ...] = ()
    axis: Axis | None = None
    group_sizes: tuple[Count, ...] = ()
    ragged: StrictBool = False
    outputs_below: Count | None = None
    because: Annotated[Line, Field(min_length=3)]
    source: Annotated[Line, Field(min_length=3)]


class DeviceLimits(Frozen):
    """What a model may use on this device; an absent limit does not bind. SI numbers, as everywhere.

    Attributes:
        weights: bytes of all stored weights.
        peak_ram: bytes of weights and live activations together.
        latency: seconds per inference.
        energy: joules per inference, static power included.
        dram_bandwidth: bytes per second of DRAM traffic.
    """

    weights: Bytes | None = None
    peak_ram: Bytes | None = None
    latency: Seconds | None = None
    energy: Joules | None = None
    dram_bandwidth: Bandwidth | None = None


class Provenance(Frozen):
    """Where a figure comes from. `recalled` and `assumed` do not count as sources."""

    kind: Literal["datasheet", "vendor", "kernel", "secondary", "derived", "measured", "recalled", "assumed"]
    source: Annotated[Line, Field(min_length=3)]
    note: Line = ""

    @property
    def is_source(self) -> bool:
        """Whether the figure can be checked: neither recalled nor assumed."""
        return self.kind not in ("recalled", "assumed")


class Reserved(Frozen):
    """Memory that other software owns."""

    memory: Name
    size_bytes: BytesOrZero = Field(alias="size")
