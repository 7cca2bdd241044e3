"""Measured quality as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from .printing import TextTable

if TYPE_CHECKING:
    from ..evaluation.evaluate import Evaluation, Interval

QUALITIES = {
    "classes": (("accuracy", "accuracy [95 %]"), ("macro_f1", "F1")),
    "tags": (("entity_f1", "entity F1 [95 %]"), ("accuracy", "words [95 %]")),
    "spans": (("exact_match", "EM [95 %]"), ("answer_f1", "F1 [95 %]")),
    "vocabulary": (("accuracy", "masks filled [95 %]"),),
    "regression": (("correlation", "correlation"),),
    "embeddings": (),
}


def evaluation_table(rows: Sequence[tuple[str, Evaluation, str, str]], title: str) -> Table:
    """Measured quality, one row per model: name, evaluation, bytes on disk, predicted loss."""
    table = TextTable(title=title)
    kind = rows[0][1].kind
    qualities = QUALITIES[kind]
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
