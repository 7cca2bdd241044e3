"""What all reports share: lines to a terminal, names of measures, sizes in all units, put on here and not before."""

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
"""Their names where a model is a decoder and they are of one of its phases."""
WIDTH = 132


def measure_name(resource: str, profile: ModelProfile) -> str:
    """Return a resource's name as reports say it.

    Args:
        resource: that is limited or minimized.
        profile: the model.
    """
    return (OF_DECODERS if profile.causal else MEASURES).get(resource, MEASURES[resource])


class TextTable(Table):
    """A table whose cells and headings are text as it stands: names are no markup and hold no control characters."""

    def __init__(self, *columns: str, **options: Any) -> None:
        """Set up a table without lines.

        Args:
            *columns: headings of columns that need no more than that.
            **options: rich's own.
        """
        super().__init__(**({"box": None, "pad_edge": False, "title_justify": "left"} | options))
        if isinstance(self.title, str):
            self.title = Text(one_line(self.title), style="italic")
        for column in columns:
            self.add_column(column)

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row, as rich does; a string is shown character by character."""
        super().add_row(*(Text(one_line(cell)) if isinstance(cell, str) else cell for cell in cells), **options)


def print_lines(lines: Iterable[str | Text | Table]) -> None:
    """Print lines and tables to stdout; every string is one line, whatever characters it holds.

    Args:
        lines: strings may hold any characters.
    """
    console = Console(width=WIDTH, highlight=False, soft_wrap=True, markup=False, emoji=False)
    for line in lines:
        console.print(Text(one_line(line)) if isinstance(line, str) else line)


def with_error(loss: float, std_error: float | None) -> str:
    """A predicted loss with its standard error, where that is known.

    Args:
        loss: in any unit.
        std_error: in the same unit; None where it is not known.
    """
    return f"{loss:.4g}" if std_error is None else f"{loss:.4g} ± {std_error:.1g}"


def memory_line(peak_bytes: int, limit_bytes: int, processes: int) -> str:
    """One line that says what a run held above the model, and whether that met its limit.

    Args:
        peak_bytes: largest memory above the model's own.
        limit_bytes: what was allowed.
        processes: how many shared the work.
    """
    kept = "within" if peak_bytes <= limit_bytes else "ABOVE"
    each = f" in each of {processes} processes" if processes > 1 else ""
    limit = f"{kept} --memory-limit {limit_bytes / 2**20:,.0f} MiB"
    return f"peak memory{each} {peak_bytes / 2**20:,.0f} MiB above the model, {limit}"


def origin(source: ScoreTable | Allocation, p: Provenance) -> str:
    """Say which metric, quantizer and text scores are from.

    Args:
        source: says metric and quantizer.
        p: of the scores.
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
    """A size to the byte, in MB and in MiB.

    Args:
        size_bytes: at least 0.
    """
    return f"{size_bytes:,} bytes = {size_bytes / 1e6:.2f} MB = {size_bytes / 2**20:.2f} MiB"
