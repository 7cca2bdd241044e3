"""The result of `optimize` as text that an engineer can act on: one table, one verdict, the files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from .printing import TextTable

if TYPE_CHECKING:
    from ..evaluation.intervals import Interval
    from ..workflows.outcome import Measured, Outcome, ShareProof


def outcome_lines(found: Outcome) -> Iterator[str | Text | Table]:
    """Yield the comparison, the verdict, and further facts.

    Args:
        found: what `optimize` found.
    """
    yield comparison_table(found)
    yield ""
    yield f"verdict  {verdict(found)}"
    if found.uniform is not None and found.uniform_suffices:
        yield f"         {uniform_line(found, found.uniform)}"
    for limit in found.limits:
        yield f"limit    {limit}"
    if len(found.tried) > 1:
        order = "faster" if found.least == "latency" else "smaller"
        yield f"checked  {len(found.tried)} plans, each {order} than the one before: {_tried(found)}"
    yield f"texts    {found.texts}"
    for note in found.notes:
        yield f"note     {note}"
    yield f"wrote    {', '.join(found.files)}"


def comparison_table(found: Outcome) -> Table:
    """Return the float model, uniform 8 bits and the plan, side by side.

    Args:
        found: what `optimize` found.
    """
    where = found.engine or "PyTorch"
    inputs = f", inputs {found.activations}" if found.activations else ""
    title = f"{found.model} in {where}{inputs}, measured on {found.plan.num_texts} texts"
    table = TextTable(title=title)
    loss = "KL, nats" if "KL" in found.loss_unit else "distance"
    columns = [
        "model",
        "packed",
        "engine's\nfiles",
        "accuracy,\n%",
        "drop, points\n[95 %]",
        "answers changed,\n% [95 %]",
    ]
    columns += [f"{loss}\n(predicted)", "time\nhere", f"on\n{found.device}"]
    rows = [_cells(row) for row in (found.original, found.uniform, found.plan) if row is not None]
    kept = [number for number in range(len(columns)) if number == 0 or any(row[number] != "-" for row in rows)]
    for number in kept:
        table.add_column(columns[number], no_wrap=True, overflow="fold")
    for row in rows:
        table.add_row(*(row[number] for number in kept))
    return table


def verdict(found: Outcome) -> str:
    """Return a sentence that says whether the limits hold, and what the plan saves.

    Args:
        found: what `optimize` found.
    """
    said = "; ".join(_proof(proof, found.plan) for proof in found.plan.proofs)
    size = f"{_size(found.plan)}, {_less(_bytes(found.original), _bytes(found.plan))} float32"
    if found.uniform is not None:
        size += f" and {_less(_bytes(found.uniform), _bytes(found.plan))} uniform 8-bit"
    if said:
        return f"holds: {said}. {size}."
    quality = ""
    if found.plan.flipped is not None:
        quality = f"{found.plan.flipped} of {found.plan.num_texts} answers change"
        quality += "" if found.plan.drop is None else f", accuracy {_points(found.plan.drop.value):+.2f} points"
    return f"every limit holds. {size}{'; ' if quality else ''}{quality}."


def uniform_line(found: Outcome, uniform: Measured) -> str:
    """Return a sentence that says that uniform 8 bits suffice, and what advantage the plan has.

    Args:
        found: what `optimize` found.
        uniform: what was measured of uniform 8 bits.
    """
    saved = _bytes(uniform) - _bytes(found.plan)
    faster = ""
    if uniform.latency_s and found.plan.latency_s:
        faster = f" and its time here is {found.plan.latency_s / uniform.latency_s:.2f} x"
    if saved <= 0:
        return f"uniform 8-bit already meets your limits: use it. This plan is no smaller{faster}."
    return (
        f"uniform 8-bit already meets your limits: use it, unless {saved / 1e6:.2f} MB "
        f"({100 * saved / _bytes(uniform):.0f} %) matter: this plan is smaller by that{faster}."
    )


def _proof(proof: ShareProof, plan: Measured) -> str:
    bound = f"at most {100 * proof.upper:.2f} at {100 * proof.confidence:g} % confidence"
    if proof.limit == "flips":
        return (
            f"{plan.flipped} of {plan.num_texts} answers change ({100 * proof.measured:.2f} %, {bound}; limit "
            f"{100 * proof.allowed:g} %)"
        )
    what = "agreement with the float model" if proof.without_labels else "accuracy"
    return f"{what} drops by {100 * proof.measured:.2f} points ({bound}; limit {100 * proof.allowed:g})"


def _cells(row: Measured) -> list[str]:
    predicted = "" if row.predicted_loss is None else f" ({row.predicted_loss:.2g})"
    return [
        row.name,
        f"{row.stored_bytes / 1e6:.2f} MB",
        "-" if row.engine_bytes is None else f"{row.engine_bytes / 1e6:.2f} MB",
        "-" if row.accuracy is None else f"{100 * row.accuracy.value:.2f}",
        _interval(row.drop),
        _interval(row.flips),
        "-" if row.kl is None else f"{row.kl.value:.2g}{predicted}",
        _milliseconds(row.latency_s),
        _milliseconds(row.predicted_latency_s),
    ]


def _tried(found: Outcome) -> str:
    parts = []
    for one in found.tried:
        held = all(proof.holds for proof in one.proofs)
        flips = "" if one.predicted_flips is None else f", predicted {100 * one.predicted_flips.value:.2f} %"
        what = f"{one.stored_bytes / 1e6:.2f} MB"
        if found.least == "latency":
            what = f"{_milliseconds(one.predicted_latency_s)}, {what}"
        parts.append(f"{what} {'holds' if held else 'does not'} ({one.flipped} flips{flips})")
    return "; ".join(parts)


def _bytes(row: Measured) -> int:
    return row.stored_bytes if row.engine_bytes is None else row.engine_bytes


def _size(row: Measured) -> str:
    return f"{_bytes(row) / 1e6:.2f} MB"


def _less(before: int, after: int) -> str:
    share = 100 * (after / before - 1)
    if abs(share) < 0.5:
        return "as large as"
    return f"{abs(share):.0f} % {'smaller' if share <= 0 else 'larger'} than"


def _interval(figure: Interval | None) -> str:
    return "-" if figure is None else f"{100 * figure.value:.2f} [{100 * figure.low:.2f}, {100 * figure.high:.2f}]"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:.3g} ms"


def _points(drop: float) -> float:
    """Return the gain in accuracy in points; a drop that rounds to 0 is +0.00, not -0.00."""
    return round(-100 * drop, 2) + 0.0
