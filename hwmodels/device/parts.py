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
from .vocabulary import Axis, NumberType, OperationKind

MOST_PARTS = 256  # of a kind; a device has a dozen, and checks compare each with each


class Dram(Frozen):
    """How a DRAM is wired; its peak bandwidth is `data_rate` x `bus_bits` / 8."""

    data_rate_per_s: DataRate = Field(alias="data_rate")
    bus_bits: Count


class Memory(Frozen):
    """One level of memory. A "per_core" memory exists `instances` times and its sizes and rates add up.

    A transfer runs at bandwidth x `efficiency` (what the controller reaches) x `contention` (the share that
    other software leaves to us). `usable` is the share of the size that we may fill.
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
        """Bytes that we may fill, all instances of a per-core memory together."""
        return int(self.size_bytes * self.usable) * self._copies

    @property
    def _copies(self) -> int:
        return self.instances if self.scope == "per_core" else 1

    def transfer_s(self, read_bytes: float, written_bytes: float) -> float:
        """Time to read and write so many bytes: bytes / derated bandwidth + one latency; nothing for no bytes."""
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

    `per_cycle` counts multiply-accumulates (gemm, matmul) or elements (the rest) per cycle and core; without an
    `efficiency` it is what the unit reaches. Sizes
    m, n, k are rounded up to `tile`, since the array works on the padding too. `efficiency_by_rows` (m:
    efficiency) replaces `efficiency` where it is known; between its points it is interpolated in log m;
    `efficiency_by_shape` replaces both. `launch` replaces the unit's own for this kind of operation.
    """

    op: OperationKind
    type: NumberType | None = None
    per_cycle: PerCycle
    efficiency: Share = 1.0
    efficiency_by_rows: dict[Rows, Share] = Field(default_factory=dict)
    efficiency_by_shape: EfficiencyGrid | None = None
    launch_s: SecondsOrZero | None = Field(alias="launch", default=None)
    tile: tuple[Count, Count, Count] = (1, 1, 1)


class Unit(Frozen):
    """A compute unit and the memories from nearest to farthest that feed it.

    With `double_buffer` the unit computes while its memories deliver; without it, DRAM time is added.
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


class Format(Frozen):
    """A way of storing weights that a unit really runs.

    Attributes:
        weight_bits: bits of one code.
        axis: "rows", "columns" or "none" (floats), as in `StoredWeight`.
        row_groups: legal numbers of row ranges; empty for any, "every-row" for one range per row.
        group_sizes: legal inputs per range for "columns".
        compute: the type that the unit multiplies in.
        how: "native" (the unit reads the codes), "dequant" (multiply and add), "lut" (a table per range).
        table_entries: entries of a range's table where `how` is "lut".
        unpack_cycles_per_weight: cycles of one core to turn one code into the compute type.
        unpack_cycles_per_group: cycles to fetch one range's scale or build its table.
        efficiency_by_rows: rows m -> efficiency of the product in this format, in place of the rate's own.
        efficiency_by_shape: the same over rows, inputs and outputs; it wins over both.
        loaded_bits: bits of one weight in memory while the engine runs, scales included; as stored if absent. Engines
            that unpack a file when they load it say so here.
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
    """Power that flows anyway, and the most that the chip may draw."""

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
    """What an engine refuses or gets wrong although the unit could do it; every condition that is given must hold.

    Attributes:
        id: name of the rule.
        bits: widths that it is about; empty for all.
        axis: axis that it is about; None for all.
        group_sizes: inputs per range that it is about; empty for all.
        ragged: only where the last range of a row would be incomplete.
        outputs_below: only for matrices of fewer outputs.
        because: what happens.
        source: who says so.
    """

    id: Name
    bits: tuple[Count, ...] = ()
    axis: Axis | None = None
    group_sizes: tuple[Count, ...] = ()
    ragged: StrictBool = False
    outputs_below: Count | None = None
    because: Annotated[Line, Field(min_length=3)]
    source: Annotated[Line, Field(min_length=3)]


class Limits(Frozen):
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
        """Whether somebody else could check the figure."""
        return self.kind not in ("recalled", "assumed")


class Reserved(Frozen):
    """Memory that other software owns."""

    memory: Name
    size_bytes: BytesOrZero = Field(alias="size")
