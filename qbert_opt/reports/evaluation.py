"""Measured quality as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table

from .printing import TextTable

if TYPE_CHECKING:
    from ..data.texts import LabeledTexts
    from ..evaluation.evaluate import Evaluation, Interval
    from ..serving.measuring import MeasuredFolder


def evaluation_table(rows: Sequence[tuple[str, Evaluation, str, str]], title: str) -> Table:
    """Measured quality, one row per model: name, evaluation, bytes on disk, predicted loss.

    Args:
        rows: all of one kind of output; the sizes and losses as text, `-` where there is none.
        title: says which texts.
    """
    table = TextTable(title=title)
    qualities = rows[0][1].figures
    loss = "KL to reference, nats [95 %]" if "KL" in rows[0][1].loss_unit else "distance to reference [95 %]"
    flips = ["flipped"] if "KL" in rows[0][1].loss_unit else []
    for column in ("model", *(title for _, title in qualities), loss, "predicted", *flips, "on disk"):
        # a long folder name is folded, so that no figure is ever cut
        table.add_column(column, no_wrap=column != "model", overflow="fold")
    for name, found, size, predicted in rows:
        table.add_row(
            name,
            *(_quality(getattr(found, field)) for field, _ in qualities),
            "-" if found.loss is None else _interval(found.loss, 1, ".3g"),
            predicted,
            *([_flipped(found)] if flips else []),
            size,
        )
    return table


def measured_table(measured: Sequence[MeasuredFolder], texts: LabeledTexts) -> Table:
    """Measured quality of folders, one row each, beside the loss that their plans predict.

    Args:
        measured: at least one folder.
        texts: what they were measured on.
    """
    rows = [
        (
            row.folder,
            row.evaluation,
            f"{row.stored_bytes:,}",
            "-" if row.predicted_loss is None else f"{row.predicted_loss:.3g}",
        )
        for row in measured
    ]
    return evaluation_table(rows, f"{len(texts)} texts of {texts.name}")


def evaluation_document(
    measured: Sequence[MeasuredFolder], reference: str | None, texts: LabeledTexts
) -> dict[str, Any]:
    """Return what `evaluate --json` prints: measured points, every figure of the last folder, timings by folder.

    Args:
        measured: the reference, if there is one, and last the folder that is evaluated.
        reference: folder of the float model, for the description.
        texts: what they were measured on.
    """
    from pydantic import TypeAdapter

    from ..evaluation.evaluate import Evaluation
    from ..serving.measuring import measured_points

    *_, last = measured
    points = measured_points(last, reference, texts)
    document: dict[str, Any] = points.model_dump(mode="json", by_alias=True, exclude_none=True)
    document |= TypeAdapter(Evaluation).dump_python(last.evaluation, mode="json")
    timings = {row.folder: asdict(row.timing) for row in measured if row.timing is not None}
    return document | ({"timing": timings} if timings else {})


def cut_lines(evaluations: Sequence[Evaluation]) -> list[str]:
    """Say how many texts were cut, once for all models that read them alike.

    Args:
        evaluations: of several models on the same texts.
    """
    return list(dict.fromkeys(line for line in map(_cut_line, evaluations) if line))


def _cut_line(found: Evaluation) -> str:
    if not found.num_cut:
        return ""
    return (
        f"{found.num_cut} of {found.num_samples} texts were cut to {found.max_tokens} tokens "
        f"({found.num_lost} {found.lost_unit} not read)"
    )


def _quality(figure: Interval | float | None) -> str:
    if figure is None:
        return "-"
    return f"{100 * figure:.2f}" if isinstance(figure, float) else _interval(figure, 100, ".2f")


def _flipped(found: Evaluation) -> str:
    if found.flipped is None:
        return "-"
    return f"{found.flipped} ({found.lost or 0} lost, {found.won or 0} won)"


def _interval(found: Interval, factor: float, form: str) -> str:
    return f"{factor * found.value:{form}} [{factor * found.low:{form}}, {factor * found.high:{form}}]"
