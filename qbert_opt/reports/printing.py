"""What all reports share: lines to a terminal, names of measures, sizes in all units, put on here and not before."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ..spec.allocation import Allocation
from ..spec.scores import Provenance, ScoreTable

MEASURES = {
    "encoder_bytes": "encoder bytes",
    "total_bytes": "bytes of the whole model",
    "peak_memory_bytes": "peak memory",
    "dram_bytes": "DRAM bytes per inference",
    "bandwidth_bytes_per_s": "DRAM bandwidth",
    "latency_s": "latency",
    "energy_j": "energy per inference",
    "bops": "bit operations",
    "predicted_loss": "predicted loss",
    "latency_bound_s": "sum of the operations' latencies",
    "energy_bound_j": "energy at that latency",
}
WIDTH = 132


def print_lines(lines: Sequence[str | Table]) -> None:
    """Print lines and tables to stdout."""
    console = Console(width=WIDTH, highlight=False, soft_wrap=True)
    for line in lines:
        console.print(line)


def memory_line(peak_bytes: int, limit_bytes: int, processes: int) -> str:
    """One line that says what a run held above the model, and whether that kept its limit."""
    kept = "within" if peak_bytes <= limit_bytes else "ABOVE"
    each = f" in each of {processes} processes" if processes > 1 else ""
    limit = f"{kept} --memory-limit {limit_bytes / 2**20:,.0f} MiB"
    return f"peak memory{each} {peak_bytes / 2**20:,.0f} MiB above the model, {limit}"


def origin(source: ScoreTable | Allocation, p: Provenance) -> str:
    """Say which metric, quantizer and text scores are from."""
    accuracy = "" if p.scored_accuracy is None else f", accuracy there {100 * p.scored_accuracy:.1f} %"
    texts = p.num_calibration + p.num_scored
    cut = f", {p.num_cut} of {texts} texts were cut to {p.max_tokens} tokens" if p.num_cut else ""
    return (
        f"metric {source.metric}, method {source.method}, data {p.data} ({p.num_calibration} texts to fit, "
        f"{p.num_scored} to score, {p.mean_tokens:.1f} tokens each{accuracy}{cut}), commit {p.commit}, {p.date}"
    )


def both(size_bytes: int) -> str:
    """A size to the byte, in MB and in MiB."""
    return f"{size_bytes:,} bytes = {size_bytes / 1e6:.2f} MB = {size_bytes / 2**20:.2f} MiB"
