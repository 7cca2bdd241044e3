"""Quantities that can be limited or minimized: their value in a report, and how they are printed."""

from __future__ import annotations

from math import ceil, floor, inf, log10
from typing import TYPE_CHECKING, Final, Literal

from hwmodels import format_bandwidth, format_bytes, format_joules, format_seconds

from ..errors import UsageError

if TYPE_CHECKING:
    from hwmodels import CostReport


PEAK: Final = "peak_memory_bytes"
Measure = Literal[
    "sum_of_scores",
    "predicted_loss",
    "encoder_bytes",
    "total_bytes",
    "peak_memory_bytes",
    "dram_bytes",
    "bandwidth_bytes_per_s",
    "bops",
    "latency_s",
    "latency_bound_s",
    "energy_j",
    "energy_bound_j",
    "token_s",
    "token_bound_s",
]
"""Quantities that can be limited or minimized."""
PER_TOKEN = ("token_s", "dram_bytes", "bandwidth_bytes_per_s", "energy_j", "bops")
"""Quantities that for a decoder refer to one token; the others refer to its prompt, or to both phases."""
TOKEN: Final = "token_s"  # people read its limit as tokens per second
LOSSES = ("sum_of_scores", "predicted_loss")
"""Those of them that have the scores' unit."""


def measured(report: CostReport | None, measure: str, token: CostReport | None = None) -> float:
    """Return the value in a cost report that a limit is compared with.

    Args:
        report: the simulator's report, of a decoder's prompt; None without a device.
        measure: the limited quantity.
        token: the report of a decoder's step with a full cache; None for an encoder.

    Raises:
        UsageError: there is no report, because there is no device.
    """
    if report is None:
        raise UsageError(f"a limit on {measure} needs `device`.")
    names = {"bandwidth_bytes_per_s": "dram_bandwidth_bytes_per_s", "token_s": "latency_s"}
    phases = [report] if token is None else [token] if measure in PER_TOKEN else [report]
    if measure == PEAK and token is not None:
        phases = [report, token]
    return max(float(getattr(phase, names.get(measure, measure))) for phase in phases)


def _rate(seconds: float) -> float:
    return 1 / seconds if seconds else inf


def shown(measure: str, value: float) -> str:
    """Format a value with its unit.

    Args:
        measure: the quantity.
        value: in the measure's own unit.
    """
    if measure == "bops":
        return f"{value:.4g} BOPs"
    if measure in LOSSES:
        return f"{value:.4g}"
    if measure == TOKEN:
        return f"{_rate(value):.4g} tokens/s"
    by_unit = {"_bytes": format_bytes, "_per_s": format_bandwidth, "_j": format_joules, "_s": format_seconds}
    return next(show(value) for unit, show in by_unit.items() if measure.endswith(unit))


def above(loss: float, digits: int = 4) -> str:
    """Format a loss to a few digits, rounded up, so that a plan of this loss meets a limit of the printed value.

    Args:
        loss: in the scores' unit.
        digits: significant digits.
    """
    text = f"{loss:.{digits}g}"
    if float(text) >= loss:
        return text
    step = 10.0 ** (floor(log10(abs(loss))) + 1 - digits)
    return f"{loss + step:.{digits}g}"


def shown_apart(measure: str, *values: float) -> list[str]:
    """Format values like `shown`, with enough digits to tell different values apart.

    Args:
        measure: the quantity.
        *values: in the measure's own unit.
    """
    texts = [shown(measure, value) for value in values]
    if len(set(texts)) == len(set(values)):
        return texts
    by_unit = {"_bytes": "bytes", "_per_s": "B/s", "_j": "J", "_s": "s"}
    unit = next((unit for ending, unit in by_unit.items() if measure.endswith(ending)), "")
    if unit == "bytes":
        return [f"{ceil(value):,} bytes" for value in values]
    if measure == TOKEN:
        unit, values = "tokens/s", tuple(map(_rate, values))
    for digits in range(5, 18):
        texts = [f"{value:.{digits}g} {unit}".rstrip() for value in values]
        if len(set(texts)) == len(set(values)):
            break
    return texts
