"""The result of a sweep: one row for each combination, the Pareto frontier, and one model for each device."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..engines.record import RECORD
from ..runtime.files import atomic_file, write_text
from ..spec.allocation import Allocation, read_allocation
from .artifacts import EXPORTED, MEASURED, PLAN, QUANTIZED
from .cache import Cache
from .graph import Combination
from .work import Result

QUALITIES = ("accuracy", "entity_f1", "exact_match", "correlation")
"""Quality measures of tasks in `measured.json`; the first one that was measured is used."""
SPREADSHEET = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class Row:
    """One combination; a field is None if it does not apply or was not measured.

    Attributes:
        model: its name in the sweep file.
        data: calibration set.
        metric: estimator of the loss.
        method: quantizer.
        device: target hardware.
        engine: engine whose files were written.
        budget: limits as written.
        status: `done`, `infeasible` or `failed`.
        step: step at which it ended.
        reason: why it failed, or why it is infeasible, with the nearest feasible value.
        encoder_bytes: bytes of the matrices.
        total_bytes: bytes of the whole stored model.
        average_bits: bits per encoder weight, scales and offsets included.
        loss_unit: unit of all losses.
        predicted_loss: cross-fitted if the scores allow it; None after training, which makes it void.
        predicted_std_error: standard error of `predicted_loss`.
        proof: `optimal`, or what the solver has proven.
        gap: proven relative distance from the optimum.
        latency_s: predicted on the device; for a decoder, the time to the first token.
        tokens_per_s: predicted for a decoder with a full cache.
        peak_memory_bytes: predicted on the device.
        dram_bytes: predicted, per inference.
        energy_j: predicted, per inference.
        confidence: how far the device's figures can be trusted.
        exported_bytes: bytes of the engine's files.
        measured_loss: loss against the float model on held-out text.
        measured_low: lower end of the 95 % interval of `measured_loss`.
        measured_high: upper end of the same interval.
        quality: measured quality in the task, for example accuracy.
        quality_name: which quality measure that is.
        flipped: number of answers that differ from the float model's.
        measured_latency_s: median processor time of one inference in the engine, on the worker's machine.
        on_frontier: no other row of its group is at least as good in quality (or loss), bytes and predicted latency
            and better in one of them.
        chosen: whether it is the one model chosen for its device and engine.
        notes: warnings.
        cpu_s: processor time spent on it in this run; shared steps count in the first row that has them.
        plan: path of `allocation.json`.
        result: path of the last folder or file.
    """

    model: str
    data: str
    metric: str
    method: str
    device: str | None
    engine: str | None
    budget: str
    status: str
    step: str | None = None
    reason: str | None = None
    encoder_bytes: int | None = None
    total_bytes: int | None = None
    average_bits: float | None = None
    loss_unit: str | None = None
    predicted_loss: float | None = None
    predicted_std_error: float | None = None
    proof: str | None = None
    gap: float | None = None
    latency_s: float | None = None
    tokens_per_s: float | None = None
    peak_memory_bytes: int | None = None
    dram_bytes: int | None = None
    energy_j: float | None = None
    confidence: str | None = None
    exported_bytes: int | None = None
    measured_loss: float | None = None
    measured_low: float | None = None
    measured_high: float | None = None
    quality: float | None = None
    quality_name: str | None = None
    flipped: int | None = None
    measured_latency_s: float | None = None
    on_frontier: bool = False
    chosen: bool = False
    notes: str | None = None
    cpu_s: float = 0.0
    plan: str | None = None
    result: str | None = None

    @property
    def loss(self) -> float | None:
        """The measured loss; the predicted loss if nothing was measured."""
        return self.predicted_loss if self.measured_loss is None else self.measured_loss

    @property
    def target(self) -> str:
        """Device and engine, in words."""
        return " with ".join(part for part in (self.device, self.engine) if part) or "no device"


def table(rows: Sequence[Combination], results: Mapping[str, Result], cache: Cache) -> list[Row]:
    """Return a row for each combination, with frontiers and choices.

    Args:
        rows: all combinations.
        results: how each task ended, by key.
        cache: contains the results.

    Raises:
        InputFileError: a result in the cache is damaged.
    """
    spent = {key: result.cpu_s for key, result in results.items()}
    made = []
    for row in rows:
        cpu_s = sum(spent.pop(task.key, 0.0) for task in row.tasks)
        made.append((replace(_row(row, results, cache), cpu_s=cpu_s), row.test_data))
    return _judged(made)


def write_tables(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write `sweep.parquet` and `sweep.csv`.

    Args:
        rows: at least one row.
        folder: an existing folder.

    Returns:
        Paths of the files.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    schema = pa.schema([(field.name, kinds[str(field.type).split(" ")[0]]) for field in fields(Row)])
    files = [folder / "sweep.parquet", folder / "sweep.csv"]
    with atomic_file(files[0]) as temporary:
        pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema=schema), temporary)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(schema.names)
    writer.writerows([_cell(value) for value in asdict(row).values()] for row in rows)
    write_text(files[1], text.getvalue())
    return files


def _cell(value: Any) -> Any:
    """Return a CSV cell; text that a spreadsheet would run as a formula gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(SPREADSHEET) else value


def _row(row: Combination, results: Mapping[str, Result], cache: Cache) -> Row:
    found = [results[task.key] for task in row.tasks]
    last = found[-1] if found else None
    status = "failed" if last is None or not last.has_result else "done"
    if last is not None and last.status == "infeasible":
        status = "infeasible"
    reason = row.fault or (last.reason if last is not None else "")
    base = Row(
        row.model, row.data, row.metric, row.method, row.target.device, row.target.engine, row.budget.label or "none",
        status, step=last.step if last is not None else "read", reason=reason or None,
    )  # fmt: skip
    notes = "; ".join(dict.fromkeys(note for result in found for note in result.notes)) or None
    folders = {
        task.step: cache.folder(task.step, task.key) for task in row.tasks if results[task.key].has_result
    }  # fmt: skip
    if "solve" not in folders:
        return replace(base, notes=notes)
    plan = read_allocation(folders["solve"] / PLAN)
    base = replace(base, notes=notes, plan=str(folders["solve"] / PLAN), **_planned(plan))
    if "recover" in folders:
        base = replace(base, predicted_loss=None, predicted_std_error=None)
    return replace(base, **_finished(folders))


def _planned(plan: Allocation) -> dict[str, Any]:
    cost = plan.device
    costs = ("latency_s", "peak_memory_bytes", "dram_bytes", "energy_j", "confidence")
    return {
        **{name: getattr(plan, name) for name in ("encoder_bytes", "total_bytes", "average_bits", "loss_unit", "gap")},
        "predicted_loss": plan.predicted_loss, "predicted_std_error": plan.predicted_std_error, "proof": plan.status,
        **({} if cost is None else {name: getattr(cost, name) for name in costs}),
        "tokens_per_s": None if cost is None or cost.decode is None else cost.decode.tokens_per_s,
    }  # fmt: skip


def _finished(folders: Mapping[str, Path]) -> dict[str, Any]:
    """Return the fields of a row that come from the steps after `solve`."""
    names = {"quantize": QUANTIZED, "recover": QUANTIZED, "export": EXPORTED, "measure": MEASURED}
    found: dict[str, Any] = {}
    for step, name in names.items():
        if step in folders:
            found["result"] = str(folders[step] / name)
    if "export" in folders:
        found["exported_bytes"] = _json(folders["export"] / EXPORTED / RECORD)["exported_bytes"]
    if "measure" in folders:
        measured = _json(folders["measure"] / MEASURED)
        loss: dict[str, Any] = next(iter(measured["points"]), {})
        found |= {"measured_loss": loss.get("loss"), "measured_low": loss.get("low"), "measured_high": loss.get("high")}
        found["flipped"] = measured.get("flipped")
        for name in QUALITIES:
            if (value := measured.get(name)) is not None:
                found |= {"quality": value["value"] if isinstance(value, dict) else value, "quality_name": name}
                break
        timings = list(measured.get("timing", {}).values())
        if timings:
            found["measured_latency_s"] = statistics.median(timings[-1]["cpu_s"])
    return found


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _judged(rows: Sequence[tuple[Row, str | None]]) -> list[Row]:
    """Mark the rows on Pareto frontiers and the chosen ones.

    Rows are compared only if their figures are comparable: those of models whose quality was measured on the same text,
    or else those of one model with one calibration set.
    """
    groups: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
    for index, (row, test_data) in enumerate(rows):
        if row.status == "done" and row.loss is not None:
            same = (test_data, row.quality_name) if row.quality is not None else (row.model, row.data)
            groups[(row.device, row.engine, *same)].append(index)
    judged = [row for row, _ in rows]
    for members in groups.values():
        best = min(members, key=lambda index: _rank(judged[index]))
        for index in members:
            others = (judged[other] for other in members if other != index)
            on_frontier = not _is_beaten(judged[index], others)
            judged[index] = replace(judged[index], on_frontier=on_frontier, chosen=index == best)
    return judged


def _badness(row: Row) -> float:
    """Return minus the quality if it was measured, else the loss against the float model; less is better."""
    return float(row.loss or 0.0) if row.quality is None else -row.quality


def _rank(row: Row) -> tuple[float, float, int]:
    """Return the sort key: best quality first, then the smallest loss, then the fewest bytes."""
    return _badness(row), float(row.loss or 0.0), row.total_bytes or 0


def _is_beaten(row: Row, others: Iterable[Row]) -> bool:
    """Whether another row is at least as good in quality, bytes and predicted latency, and better in one of them."""
    own = (_badness(row), row.total_bytes or 0, row.latency_s or 0.0)
    for other in others:
        theirs = (_badness(other), other.total_bytes or 0, other.latency_s or 0.0)
        if theirs != own and all(a <= b for a, b in zip(theirs, own, strict=True)):
            return True
    return False
