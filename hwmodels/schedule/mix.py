"""The cost of an inference over a distribution of inputs, for example a histogram of sequence lengths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import networkx as nx

from ..device.errors import DeviceError
from .cost_report import CostReport
from .simulate import simulate

if TYPE_CHECKING:
    from ..device.description import Device

_MOST_WEIGHT = 1e18  # a count of a histogram; sums of such weights are finite


@dataclass(frozen=True, slots=True)
class MixReport:
    """What an inference costs on average over a mix, and at worst.

    Attributes:
        shares: share of the inferences that each graph stands for; they sum to 1.
        reports: the report of each graph.
        mean_latency_s: mean latency.
        tail_latency_s: 95th percentile of the latency.
        worst_latency_s: largest latency.
        peak_memory_bytes: largest peak memory.
        scratchpad_room_bytes: room for resident weights beside the largest activations.
        mean_dram_bytes: average bytes from and to DRAM.
        mean_energy_j: average energy, static power included.
        inferences_per_s: the given rate, or 1 / mean latency.
        dram_bandwidth_bytes_per_s: average DRAM bytes x rate.
        average_power_w: static power and average dynamic energy x rate.
    """

    shares: tuple[float, ...]
    reports: tuple[CostReport, ...]
    mean_latency_s: float
    tail_latency_s: float
    worst_latency_s: float
    peak_memory_bytes: int
    scratchpad_room_bytes: int
    mean_dram_bytes: float
    mean_energy_j: float
    inferences_per_s: float
    dram_bandwidth_bytes_per_s: float
    average_power_w: float

    def __repr__(self) -> str:
        """Return one line."""
        return (
            f"MixReport(reports={len(self.reports)}, mean_latency_s={self.mean_latency_s:.4g}, "
            f"tail_latency_s={self.tail_latency_s:.4g}, peak_memory_bytes={self.peak_memory_bytes}, "
            f"mean_energy_j={self.mean_energy_j:.4g})"
        )


def simulate_mix(
    mix: Sequence[tuple[float, nx.DiGraph]], device: Device, *, inferences_per_s: float | None = None
) -> MixReport:
    """Simulate one model for several kinds of input.

    Args:
        mix: weight (for example a count of a histogram) and operator graph of each kind of input.
        device: the hardware.
        inferences_per_s: rate of inferences; back to back if None.

    Returns:
        Means, 95th percentile and extremes over the mix.

    Raises:
        DeviceError: an empty mix, negative or infinite weights, or graphs of different models.
    """
    weights = [weight for weight, _ in mix]
    if not all(0 <= weight <= _MOST_WEIGHT for weight in weights) or not any(weights):
        raise DeviceError(
            f"mix: found weights {weights[:8]}; legal are numbers from 0 to {_MOST_WEIGHT:g} and one above 0; "
            "correct them"
        )
    shares = tuple(weight / math.fsum(weights) for weight in weights)
    reports = tuple(simulate(graph, device, inferences_per_s=inferences_per_s) for _, graph in mix)
    stored = {report.weight_bytes for report in reports}
    if len(stored) > 1:
        raise DeviceError(f"mix: found weights of {sorted(stored)} bytes; legal is one model; use graphs of one plan")

    def mean(values: Sequence[float]) -> float:
        return math.fsum(share * value for share, value in zip(shares, values, strict=True))

    mean_latency_s = mean([report.latency_s for report in reports])
    rate = inferences_per_s or 1 / mean_latency_s
    mean_dram_bytes = mean([report.dram_bytes for report in reports])
    return MixReport(
        shares=shares,
        reports=reports,
        mean_latency_s=mean_latency_s,
        tail_latency_s=_quantile(shares, [report.latency_s for report in reports], 0.95),
        worst_latency_s=max(report.latency_s for share, report in zip(shares, reports, strict=True) if share),
        peak_memory_bytes=max(report.peak_memory_bytes for report in reports),
        scratchpad_room_bytes=min(report.scratchpad_room_bytes for report in reports),
        mean_dram_bytes=mean_dram_bytes,
        mean_energy_j=mean([report.energy_j for report in reports]),
        inferences_per_s=rate,
        dram_bandwidth_bytes_per_s=mean_dram_bytes * rate,
        average_power_w=device.power.static_w + mean([report.dynamic_energy_j for report in reports]) * rate,
    )


def _quantile(shares: Sequence[float], values: Sequence[float], level: float) -> float:
    """Return the least value that at least `level` of the shares do not exceed."""
    reached = 0.0
    for value, share in sorted(zip(values, shares, strict=True)):
        reached += share
        if reached >= level - 1e-12:
            return value
    return max(values)
