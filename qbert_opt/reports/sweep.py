"""A sweep on the terminal, as JSON, and as one HTML page."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.table import Table

from hwmodels import format_seconds

from ..runtime.files import write_text
from .printing import TextTable

if TYPE_CHECKING:
    from ..sweep.run import Swept
    from ..sweep.table import Row

WIDTH, HEIGHT, MARGIN = 620, 300, 56
MOST_ROWS = 60  # on the terminal; the files have all
COLUMNS = (
    "model", "data", "metric", "method", "budget", "matrices", "bits", "whole model", "predicted loss", "measured loss",
    "quality", "latency", "time in engine", "status",
)  # fmt: skip


def sweep_lines(swept: Swept) -> list[str | Table]:
    """Return the rows of each device, the chosen models, and the time that the sweep took.

    Args:
        swept: what a sweep found.
    """
    lines: list[str | Table] = []
    left = MOST_ROWS
    for target, rows in by_target(swept.rows).items():
        shown = [row for row in rows if row.status == "done"][: max(0, left)]
        left -= len(rows)
        if shown:
            lines += [_table(target, shown), ""]
        lines += [f"{target}, {row.model}, budget {row.budget}: {_end(row)}" for row in rows if row.status != "done"]
    if left < 0:
        lines.append(f"{-left} more rows are in the files")
    lines += [f"{row.target}: {row.model}, budget {row.budget}, {_figures(row)}" for row in swept.rows if row.chosen]
    return [*lines, *summary_lines(swept)]


def summary_lines(swept: Swept) -> list[str]:
    """Return how many rows ended in which way, and how many steps were computed.

    Args:
        swept: what a sweep found.
    """
    count = {status: sum(row.status == status for row in swept.rows) for status in ("done", "infeasible", "failed")}
    ended = ", ".join(f"{number} {status}" for status, number in count.items() if number)
    lines = [
        f"{len(swept.rows)} rows: {ended}; {swept.num_tasks} steps, {swept.num_found} of them in the cache, "
        f"{swept.num_run} run in {format_seconds(swept.cpu_s)} of processor time"
    ]
    if swept.lost_s > 0:
        lines.append(f"{swept.lost_s:.1f} s of work were lost with processes that were killed, and done again")
    return lines


def by_target(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each device and engine, in their order.

    Args:
        rows: rows of a sweep.
    """
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.target, []).append(row)
    return found


def sweep_json(swept: Swept) -> str:
    """Return rows and counts as JSON.

    Args:
        swept: what a sweep found.
    """
    counts = {name: getattr(swept, name) for name in ("num_tasks", "num_found", "num_run", "cpu_s", "lost_s")}
    return json.dumps({"rows": [asdict(row) for row in swept.rows], **counts}, indent=1)


def write_page(swept: Swept) -> Path:
    """Write `sweep.html` beside the tables: one self-contained file that needs no network; names are escaped.

    Args:
        swept: what a sweep found.

    Returns:
        Its path.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True,
    )  # fmt: skip
    targets = [
        {"name": name, "rows": [_cells(row) for row in rows], "chart": _chart(rows),
         "chosen": [f"{row.model}, budget {row.budget}: {_figures(row)}" for row in rows if row.chosen]}
        for name, rows in by_target(swept.rows).items()
    ]  # fmt: skip
    path = swept.folder / "sweep.html"
    text = environment.get_template("sweep.html").render(
        title=f"Sweep: {len(swept.rows)} rows",
        summary=summary_lines(swept),
        columns=COLUMNS,
        targets=targets,
        headings=(),  # of the table that the style sheet lays out for narrow screens
    )
    write_text(path, text)
    return path


def _table(target: str, rows: Sequence[Row]) -> Table:
    table = TextTable(title=target)
    cells = [_texts(row) for row in rows]
    always = (COLUMNS.index("model"), COLUMNS.index("status"))
    shown = [i for i in range(len(COLUMNS)) if i in always or len({texts[i] for texts in cells}) > 1]
    for index in shown:
        table.add_column(COLUMNS[index], overflow="fold")
    for texts in cells:
        table.add_row(*(texts[index] for index in shown))
    return table


def _texts(row: Row) -> tuple[str, ...]:
    """Return the cells of a row, one for each of `COLUMNS`."""
    predicted = _number(row.predicted_loss, ".3g")
    if row.predicted_loss is not None and row.predicted_std_error is not None:
        predicted += f" ± {row.predicted_std_error:.1g}"
    measured = _number(row.measured_loss, ".3g")
    if row.measured_low is not None and row.measured_high is not None:
        measured += f" [{row.measured_low:.3g}, {row.measured_high:.3g}]"
    marks = [*(["chosen"] if row.chosen else []), *(["frontier"] if row.on_frontier and not row.chosen else [])]
    return (
        row.model, Path(row.data).name, row.metric, row.method, row.budget, _megabytes(row.encoder_bytes),
        _number(row.average_bits, ".2f"), _megabytes(row.total_bytes), predicted, measured,
        "-" if row.quality is None else f"{row.quality:.4g} {row.quality_name}", _predicted(row),
        _seconds(row.measured_latency_s), ", ".join(marks) or _end(row),
    )  # fmt: skip


def _predicted(row: Row) -> str:
    """Return the predicted latency; for a decoder, the time to the first token and the speed."""
    speed = "" if row.tokens_per_s is None else f", {row.tokens_per_s:.3g} tokens/s"
    return f"{_seconds(row.latency_s)}{speed}"


def _cells(row: Row) -> dict[str, Any]:
    return {"texts": _texts(row), "chosen": row.chosen, "status": row.status, "notes": row.notes or ""}


def _figures(row: Row) -> str:
    loss = "measured" if row.measured_loss is not None else "predicted"
    parts = [f"{loss} loss {row.loss:.3g} {row.loss_unit}", f"{_megabytes(row.total_bytes)} in all"]
    parts += [f"{row.quality_name} {row.quality:.4g}"] if row.quality is not None else []
    parts += [f"{_predicted(row)} predicted"] if row.latency_s is not None else []
    return ", ".join(parts)


def _chart(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Place loss, on a logarithmic axis, over the bytes of the whole model; None if no loss is above 0."""
    known = [row for row in rows if row.status == "done" and row.loss and row.loss > 0 and row.total_bytes]
    if not known:
        return None
    sizes, losses = [float(r.total_bytes or 0) for r in known], [math.log10(float(r.loss or 0)) for r in known]
    low, high, left, right = min(losses) - 0.1, max(losses) + 0.1, 0.98 * min(sizes), 1.02 * max(sizes)

    def x(size: float) -> float:
        return round(MARGIN + (WIDTH - 2 * MARGIN) * (size - left) / (right - left), 1)

    def y(level: float) -> float:
        return round(HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (level - low) / (high - low), 1)

    marks = [
        {"x": x(size), "y": y(level), "kind": "chosen" if row.chosen else "on" if row.on_frontier else "off",
         "title": f"{row.model}, {row.method}, budget {row.budget}: {_figures(row)}"}
        for row, size, level in zip(known, sizes, losses, strict=True)
    ]  # fmt: skip
    return {
        "width": WIDTH, "height": HEIGHT, "margin": MARGIN, "marks": marks,
        "x_ticks": [{"at": x(size), "text": f"{size / 1e6:.3g}"} for size in (min(sizes), max(sizes))],
        "y_ticks": [{"at": y(level), "text": f"{10**level:.2g}"} for level in (min(losses), max(losses))],
        "unit": known[0].loss_unit,
    }  # fmt: skip


def _end(row: Row) -> str:
    return row.status if row.status == "done" else f"{row.status} at {row.step}: {row.reason}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.3g} MB"


def _seconds(value: float | None) -> str:
    return "-" if value is None else format_seconds(value)
