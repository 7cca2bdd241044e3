"""What one inference costs on a device: the result of `simulate`."""

from __future__ import annotations

from dataclasses import dataclass

from ..device.units import format_bytes, format_joules, format_seconds
from .list_scheduling import ScheduledOperation
from .memory import MemoryPlan


@dataclass(frozen=True, slots=True)
class PeakBound:
    """Upper bound on peak memory.

    The program's row is `activation_bytes` + the sum of the chosen weights' bytes <= limit.

    Attributes:
        activation_bytes: of activations, which no choice of weight format changes.
        weight_bytes: of the weights of this plan.
    """

    activation_bytes: int
    weight_bytes: int

    @property
    def total_bytes(self) -> int:
        """Both parts."""
        return self.activation_bytes + self.weight_bytes


@dataclass(frozen=True, slots=True)
class CostReport:
    """What one inference costs on a device.

    Attributes:
        device: id of the device.
        operations: each operation with its cost, start and finish, in the order of execution.
        latency_s: time to the last result, as scheduled.
        latency_bound_s: sum of the latencies without overlap; never below `latency_s`.
        critical_path_s: the longest chain of dependent operations.
        peak_memory_bytes: all weights and states as held in memory and the arena of activations.
        peak_bound_bytes: the separable bound; never below `peak_memory_bytes`.
        peak_activation_bytes: the arena alone.
        weight_bytes: all stored weights, resident or not.
        held_bytes: the same in memory while the engine runs; more where it unpacks them at load, and with the state
            that outlives the inference, such as a cache of keys and values.
        dram_bytes: bytes from and to DRAM per inference.
        dram_bandwidth_bytes_per_s: `dram_bytes` x inferences per second.
        inferences_per_s: the given rate, or 1 / latency.
        scratchpad_bytes: weights that are resident on chip.
        scratchpad_room_bytes: how many bytes of weights could be resident.
        dynamic_energy_j: arithmetic and transfers per inference.
        energy_j: dynamic energy plus static power x latency.
        average_power_w: static power plus dynamic energy x inferences per second.
        unpack_s: time to convert stored codes to the compute type.
        dram_saved_s: DRAM time saved against streaming the narrow matrices with 8-bit codes.
        gain_over_8_bits_s: `latency_bound_s` with streamed 8-bit codes in one group instead, minus its own; below 0
            fewer bits are slower here.
        bops: macs x weight bits x activation bits, all operations together.
        bound_shares: dominating term of an operation -> share of `latency_bound_s`.
        confidence: "theoretical", "partly-measured" or "calibrated", from the device file.
        latency_interval_s: lowest and highest latency to expect from a measurement.
        sourced_figures: figures of the device file with a source.
        all_figures: all its figures.
        over_limits: one line per limit of the device that the graph breaks.
        notes: caveats about the figures above.
        memory: the layout of activations over the order of operations.
        cached: whether the schedule assumes a warm cache that holds all weights; `dram_bytes` is for a cold one.
    """

    device: str
    operations: tuple[ScheduledOperation, ...]
    latency_s: float
    latency_bound_s: float
    critical_path_s: float
    peak_memory_bytes: int
    peak_bound_bytes: int
    peak_activation_bytes: int
    weight_bytes: int
    held_bytes: int
    dram_bytes: int
    dram_bandwidth_bytes_per_s: float
    inferences_per_s: float
    scratchpad_bytes: int
    scratchpad_room_bytes: int
    dynamic_energy_j: float
    energy_j: float
    average_power_w: float
    unpack_s: float
    dram_saved_s: float
    gain_over_8_bits_s: float
    bops: int
    bound_shares: dict[str, float]
    confidence: str
    latency_interval_s: tuple[float, float]
    sourced_figures: int
    all_figures: int
    over_limits: tuple[str, ...]
    notes: tuple[str, ...]
    memory: MemoryPlan
    cached: bool

    def __repr__(self) -> str:
        """Return one line."""
        return (
            f"CostReport({self.device!r}, latency_s={self.latency_s:.4g}, peak_memory_bytes={self.peak_memory_bytes}, "
            f"dram_bytes={self.dram_bytes}, energy_j={self.energy_j:.4g}, operations={len(self.operations)})"
        )

    def __str__(self) -> str:
        """Return what one inference costs, one figure a line."""
        low, high = self.latency_interval_s
        figures = {
            "latency": f"{format_seconds(self.latency_s)} ({format_seconds(low)} to {format_seconds(high)})",
            "peak memory": format_bytes(self.peak_memory_bytes),
            "DRAM traffic": f"{format_bytes(self.dram_bytes)} per inference",
            "energy": f"{format_joules(self.energy_j)} per inference",
        }
        lines = [f"{self.device}, predicted ({self.confidence}):", *(f"{k:13}{v}" for k, v in figures.items())]
        return "\n".join([*lines, *self.over_limits])
