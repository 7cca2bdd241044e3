"""Which of a device's limits a report exceeds, and what would speed up an operation."""

from __future__ import annotations

from ..device.description import Device
from ..device.units import format_bandwidth, format_bytes, format_joules, format_seconds, format_watts
from .cost_report import CostReport

REMEDIES = {
    "compute": "a narrower compute type or fewer tokens; fewer stored bits change nothing",
    "unpack": "a native format, fewer groups or more stored bits",
    "near memory": "fewer stored bits, or rows that fit the nearest memory",
    "dram": "fewer stored bits, or weights that stay in the scratchpad",
    "launch": "fusing it with its neighbour, or a larger batch",
}


def over_limits(report: CostReport, device: Device) -> tuple[str, ...]:
    """Return one line for each limit of the device that the report exceeds.

    Args:
        report: result of `simulate`.
        device: its limits and memories.
    """
    limits = device.limits
    checks = (
        ("memory", report.peak_memory_bytes, device.available_bytes, format_bytes),
        ("weights", report.weight_bytes, limits.weights, format_bytes),
        ("peak_ram", report.peak_memory_bytes, limits.peak_ram, format_bytes),
        ("latency", report.latency_s, limits.latency, format_seconds),
        ("energy", report.energy_j, limits.energy, format_joules),
        ("dram_bandwidth", report.dram_bandwidth_bytes_per_s, limits.dram_bandwidth, format_bandwidth),
        ("power", report.average_power_w, device.power.tdp_w, format_watts),
    )
    return tuple(
        f"{name}: needs {show(value)}, the limit is {show(limit)}"
        for name, value, limit, show in checks
        if limit is not None and value > limit
    )
