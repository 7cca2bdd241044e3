"""Measured quality as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from .printing import TextTable

if TYPE_CHECKING:
    from ..data.texts import LabeledTexts
    from ..evaluation.evaluate import Evaluation, Interval
    from ..serving.measuring import MeasuredFolder


def evaluation_table(rows: Sequence[tuple[str, Evaluation, str, str]], title: str) -> Table:
    """Return measured quality as a table with one row per model.

    Args:
        rows: name, evaluation, bytes on disk and predicted loss of each model, the latter two as text, `-` if there is
            none. All models must have the same kind of output.
        title: title of the table, which names the texts.
    """
    table = TextTable(title=title)
    qualities = rows[0][1].figures
    loss = "KL to reference, nats [95 %]" if "KL" in rows[0][1].loss_unit else "distance to reference [95 %]"
    flips = ["flipped"] if "KL" in rows[0][1].loss_unit and "agreement" not in dict(qualities) else []
    for column in ("model", *(title for _, title in qualities), loss, "predicted", *flips, "on disk"):
        # a long folder name is wrapped, so that no figure is ever cut off
        table.add_column(column, no_wrap=column != "model", overflow="fold")
    for name, evaluation, size, predicted in rows:
        table.add_row(
            name,
            *(_quality(field, getattr(evaluation, field)) for field, _ in qualities),
            "-" if evaluation.loss is None else _interval(evaluation.loss, 1, ".3g"),
            predicted,
            *([_flipped(evaluation)] if flips else []),
            size,
        )
    return table


def measured_table(measured: Sequence[MeasuredFolder], texts: LabeledTexts) -> Table:
    """Return the measured quality of folders, one row each, beside the loss that their plans predict.

    Args:
        measured: at least one folder.
        texts: the texts that they were measured on.
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


def cut_lines(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return how many texts were truncated or split into windows, one line for all models that do it alike.

    Args:
        evaluations: evaluations of several models on the same texts.
    """
    return list(dict.fromkeys(line for line in map(_cut_line, evaluations) if line))


def drop_lines(evaluation: Evaluation) -> list[str]:
    """Return by how many points quality dropped against the reference (below 0 if it rose), if both were measured.

    Args:
        evaluation: evaluation of a model, with a reference.
    """
    if evaluation.drop is None:
        return []
    title = evaluation.figures[0][1].removesuffix(" [95 %]")
    drop = _interval(evaluation.drop, 100, ".2f")
    return [f"drop of {title} against the reference, in points [95 %, paired by text]: {drop}"]


def _cut_line(evaluation: Evaluation) -> str:
    if evaluation.num_windows is not None:
        return (
            f"texts longer than {evaluation.max_tokens} tokens were read in windows: {evaluation.num_samples} texts, "
            f"{evaluation.num_windows} windows"
        )
    if not evaluation.num_cut:
        return ""
    return (
        f"{evaluation.num_cut} of {evaluation.num_samples} texts were cut to {evaluation.max_tokens} tokens "
        f"({evaluation.num_lost} {evaluation.lost_unit} not read)"
    )


def _quality(field: str, figure: Interval | float | None) -> str:
    if figure is None:
        return "-"
    if field == "perplexity" and not isinstance(figure, float):
        return _interval(figure, 1, ".4g")
    return f"{100 * figure:.2f}" if isinstance(figure, float) else _interval(figure, 100, ".2f")


def _flipped(evaluation: Evaluation) -> str:
    if evaluation.flipped is None:
        return "-"
    return f"{evaluation.flipped} ({evaluation.lost or 0} lost, {evaluation.won or 0} won)"


def _interval(interval: Interval, factor: float, form: str) -> str:
    return f"{factor * interval.value:{form}} [{factor * interval.low:{form}}, {factor * interval.high:{form}}]"
