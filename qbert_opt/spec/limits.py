"""Limits that a plan must meet, from the user and from the device, as rows of the program.

A resource that adds up over matrices (bytes, DRAM bytes, BOPs) becomes a capacity. Latency and energy do not add up
(prefetch, static power); they are checked on the scheduled value and enforced by tightening their separable bound.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import inf
from numbers import Real
from typing import TYPE_CHECKING, Literal

from ..errors import UsageError
from .quantities import PEAK, Measure

if TYPE_CHECKING:
    from hwmodels import Device

LARGEST_RATE = 1e9  # inferences per second


@dataclass(frozen=True, slots=True)
class Limits:
    """The user's limits; None is no limit. The device's own limit applies where the user gives none.

    Attributes:
        encoder_bytes: `--budget`, on the searched matrices.
        total_bytes: `--total-budget`, on the whole stored model.
        latency_s: on the scheduled latency of one inference; for a decoder, on the time to its first token.
        memory_bytes: on peak memory: all weights, a decoder's cache, and the activation arena.
        dram_bytes: per inference; for a decoder, per token with a full cache.
        bandwidth_bytes_per_s: DRAM bytes per inference × `inferences_per_s`; for a decoder, tokens count as inferences.
        energy_j: per inference, static power included; for a decoder, per token.
        scratchpad_bytes: on weights kept on chip between inferences; they get at most what activations leave free.
        bops: bit operations per inference: multiply-accumulates × weight bits × activation bits.
        inferences_per_s: rate of inferences, for bandwidth and average power.
        tokens_per_s: minimum tokens per second of a decoder for each sequence, with a full cache; 0 is no limit.

    Raises:
        UsageError: a limit that is not a number, or is negative.
    """

    encoder_bytes: int | None = None
    total_bytes: int | None = None
    latency_s: float | None = None
    memory_bytes: int | None = None
    dram_bytes: int | None = None
    bandwidth_bytes_per_s: float | None = None
    energy_j: float | None = None
    scratchpad_bytes: int | None = None
    bops: float | None = None
    inferences_per_s: float | None = None
    tokens_per_s: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            limit = getattr(self, field.name)
            if limit is None:
                continue
            if isinstance(limit, bool) or not isinstance(limit, Real) or not float(limit) >= 0:
                raise UsageError(f"`{field.name}`: {limit!r} is no limit. Give a number of at least 0, or none.")


@dataclass(frozen=True, slots=True)
class Row:
    """One limit.

    Attributes:
        resource: the quantity that adds up over matrices, or `latency_s` / `energy_j` for scheduled values.
        measure: the field of the plan or of the cost report that is compared with the limit.
        stated: the limit as given.
        capacity: what the limit leaves for the searched matrices.
        source: where the limit comes from, for example `--budget` or `car-soc: limits.weights`.
    """

    resource: str
    measure: Measure
    stated: float
    capacity: float
    source: str


def limit_rows(
    limits: Limits,
    device: Device | None,
    fixed: dict[str, float],
    activation_bytes: int,
    total_resource: Literal["encoder_bytes", "total_bytes"],
    *,
    expands: bool = False,
) -> list[Row]:
    """Turn limits into rows.

    Args:
        limits: the user's limits.
        device: the hardware, with limits of its own.
        fixed: usage of everything that is not searched, by resource.
        activation_bytes: size of the activation arena, and of a decoder's cache.
        total_resource: resource that a limit on the whole model caps: `encoder_bytes` if only matrices are searched,
            else `total_bytes`.
        expands: whether weights take other bytes in memory, `held_bytes`, than in the file.

    Raises:
        UsageError: a limit needs a device or a rate of inferences, and there is none.
    """
    _check_needs(limits, device)
    own = device.limits if device else None
    name = device.id if device else ""
    other = fixed["total_bytes"]
    rows: list[Row] = []

    def add(
        resource: str,
        measure: Measure,
        of_user: float | None,
        flag: str,
        used_elsewhere: float,
        of_device: float | None,
        field: str,
    ) -> None:
        stated, source = (of_user, flag) if of_user is not None else (of_device, f"{name}: limits.{field}")
        if stated is not None:
            rows.append(Row(resource, measure, stated, stated - used_elsewhere, source))

    add("encoder_bytes", "encoder_bytes", limits.encoder_bytes, "--budget", 0, None, "")
    add(
        total_resource,
        "total_bytes",
        limits.total_bytes,
        "--total-budget",
        other,
        own.weights if own else None,
        "weights",
    )
    if limits.total_bytes is not None and own is not None and own.weights is not None:
        add(total_resource, "total_bytes", None, "", other, own.weights, "weights")
    peak_resource = "held_bytes" if expands else total_resource
    fixed_peak = (fixed["held_bytes"] if expands else other) + activation_bytes
    add(
        peak_resource,
        PEAK,
        limits.memory_bytes,
        "--max-memory",
        fixed_peak,
        own.peak_ram if own else None,
        "peak_ram",
    )
    if device is not None and device.available_bytes < min(
        (row.stated for row in rows if row.measure == PEAK), default=inf
    ):
        rows.append(
            Row(peak_resource, PEAK, device.available_bytes, device.available_bytes - fixed_peak, f"{name}: memory")
        )
    add("dram_bytes", "dram_bytes", limits.dram_bytes, "--max-dram-bytes", fixed.get("dram_bytes", 0), None, "")
    bandwidth, flag = limits.bandwidth_bytes_per_s, "--max-bandwidth"
    if bandwidth is None and own is not None and limits.inferences_per_s is not None and own.dram_bandwidth is not None:
        bandwidth, flag = own.dram_bandwidth, f"{name}: limits.dram_bandwidth"
    if bandwidth is not None and limits.inferences_per_s is not None:
        capacity = bandwidth / limits.inferences_per_s - fixed["dram_bytes"]
        rows.append(Row("dram_bytes", "bandwidth_bytes_per_s", bandwidth, capacity, flag))
    add("bops", "bops", limits.bops, "--max-bops", fixed.get("bops", 0), None, "")
    add("latency_s", "latency_s", limits.latency_s, "--max-latency", 0, own.latency if own else None, "latency")
    if limits.tokens_per_s:
        add("token_s", "token_s", 1 / limits.tokens_per_s, "--min-tokens-per-s", 0, None, "")
    add("energy_j", "energy_j", limits.energy_j, "--max-energy", 0, own.energy if own else None, "energy")
    return rows


def tightest(rows: list[Row]) -> dict[str, Row]:
    """Return the row of least capacity for each resource.

    Args:
        rows: all limits.
    """
    least: dict[str, Row] = {}
    for row in rows:
        if row.resource not in least or row.capacity < least[row.resource].capacity:
            least[row.resource] = row
    return least


def check_rate(inferences_per_s: float | None) -> None:
    """Check a rate of inferences.

    Args:
        inferences_per_s: the rate; None is no rate.

    Raises:
        UsageError: the rate is not between 0 and a billion.
    """
    if inferences_per_s is not None and not 0 < inferences_per_s < LARGEST_RATE:
        raise UsageError(
            f"`inferences_per_s` {inferences_per_s:g}: must be more than 0 and less than {LARGEST_RATE:g} inferences "
            "per second."
        )


def _check_needs(limits: Limits, device: Device | None) -> None:
    check_rate(limits.inferences_per_s)
    needs_device = {
        "`latency_s`": limits.latency_s,
        "`memory_bytes`": limits.memory_bytes,
        "`dram_bytes`": limits.dram_bytes,
        "`bandwidth_bytes_per_s`": limits.bandwidth_bytes_per_s,
        "`energy_j`": limits.energy_j,
        "`scratchpad_bytes`": limits.scratchpad_bytes,
        "`bops`": limits.bops,
        "`tokens_per_s`": limits.tokens_per_s,
    }
    for flag, value in needs_device.items():
        if value is not None and device is None:
            raise UsageError(f"{flag}: needs `device`, for example car-soc.")
    if limits.bandwidth_bytes_per_s is not None and limits.inferences_per_s is None:
        raise UsageError(
            "`bandwidth_bytes_per_s`: needs `inferences_per_s`, since bandwidth is bytes per inference times this rate."
        )
