"""Shared by all reports: printing lines, names of measures, and sizes in all units, which are formatted only here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..runtime.plain_text import one_line
from ..spec.allocation import Allocation
from ..spec.profiles import ModelProfile
from ..spec.score_parts import Provenance
from ..spec.scores import ScoreTable

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
    "sum_of_scores": "sum of scores",
    "token_s": "speed of a sequence",
    "token_bound_s": "sum of the operations' latencies of a token",
    "latency_bound_s": "sum of the operations' latencies",
    "energy_bound_j": "energy at that latency",
}
OF_DECODERS = {
    "encoder_bytes": "decoder bytes",
    "dram_bytes": "DRAM bytes per token",
    "latency_s": "time to the first token",
    "energy_j": "energy per token",
    "bops": "bit operations per token",
    "latency_bound_s": "sum of the operations' latencies of the prompt",
    "energy_bound_j": "energy per token at that latency",
}
"""Names of measures for a decoder, which refer to one of its phases."""
WIDTH = 132


def measure_name(resource: str, profile: ModelProfile) -> str:
    """Return a resource's name in reports.

    Args:
        resource: a resource that is limited or minimized.
        profile: the model.
    """
    return (OF_DECODERS if profile.causal else MEASURES).get(resource, MEASURES[resource])


class TextTable(Table):
    """A table whose cells and headings are literal text: names cannot add markup or control characters."""

    def __init__(self, *columns: str, **options: Any) -> None:
        """Set up a table without lines.

        Args:
            *columns: headings of columns without further options.
            **options: rich's options.
        """
        super().__init__(**({"box": None, "pad_edge": False, "title_justify": "left"} | options))
        if isinstance(self.title, str):
            self.title = Text(one_line(self.title), style="italic")
        for column in columns:
            self.add_column(column)

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row as rich does, with strings shown literally.

        Args:
            *cells: cells of the row.
            **options: rich's options.
        """
        super().add_row(*(Text(one_line(cell)) if isinstance(cell, str) else cell for cell in cells), **options)


def print_lines(lines: Iterable[str | Text | Table]) -> None:
    """Print lines and tables to stdout; every string is one line, whatever characters it contains.

    Args:
        lines: strings may hold any characters.
    """
    console = Console(width=WIDTH, highlight=False, soft_wrap=True, markup=False, emoji=False)
    for line in lines:
        console.print(Text(one_line(line)) if isinstance(line, str) else line)


def with_error(loss: float, std_error: float | None) -> str:
    """Return a predicted loss as text, with its standard error if that is known.

    Args:
        loss: a loss in any unit.
        std_error: its standard error in the same unit; None if it is not known.
    """
    return f"{loss:.4g}" if std_error is None else f"{loss:.4g} ± {std_error:.1g}"


def memory_line(peak_bytes: int, limit_bytes: int, processes: int) -> str:
    """Return a line that says how much memory a run used besides the model, and whether that met its limit.

    Args:
        peak_bytes: peak memory besides the model.
        limit_bytes: the limit.
        processes: number of processes that shared the work.
    """
    kept = "within" if peak_bytes <= limit_bytes else "ABOVE"
    each = f" in each of {processes} processes" if processes > 1 else ""
    limit = f"{kept} --memory-limit {limit_bytes / 2**20:,.0f} MiB"
    return f"peak memory{each} {peak_bytes / 2**20:,.0f} MiB above the model, {limit}"


def origin(source: ScoreTable | Allocation, p: Provenance) -> str:
    """Return the metric, the quantizer and the text that scores were computed with.

    Args:
        source: has the metric and the quantizer.
        p: provenance of the scores.
    """
    accuracy = "" if p.scored_accuracy is None else f", accuracy there {100 * p.scored_accuracy:.1f} %"
    texts = p.num_calibration + max(p.num_scored, p.num_pool)
    drawn = f" drawn from {p.num_pool}" if p.num_pool else ""
    cut = f", {p.num_cut} of {texts} texts were cut to {p.max_tokens} tokens" if p.num_cut else ""
    return (
        f"metric {source.metric}, method {source.method}, data {p.data} ({p.num_calibration} texts to fit, "
        f"{p.num_scored} to score{drawn}, {p.mean_tokens:.1f} tokens each{accuracy}{cut}), commit {p.commit}, {p.date}"
    )


def both(size_bytes: int) -> str:
    """Return a size in bytes, MB and MiB.

    Args:
        size_bytes: at least 0.
    """
    return f"{size_bytes:,} bytes = {size_bytes / 1e6:.2f} MB = {size_bytes / 2**20:.2f} MiB"
