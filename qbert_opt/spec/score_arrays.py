"""Arrays of scores, [matrices or tables, choices]: their types, their checks, and how they are scaled and rounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Protocol

from pydantic import Field

LARGEST_SCORE = 1e100  # sums and squares of larger ones would overflow
LARGEST_SCALE = 1e6  # likewise of errors of the scale times scores
Loss = Annotated[float, Field(ge=0, le=LARGEST_SCORE)]
Rows = tuple[tuple[Loss | None, ...], ...]  # [items, choices], None where masked
Folds = tuple[Rows, ...]


def short(rows: Rows) -> Rows:
    """Round to six significant digits; more would only make files with many folds long.

    Args:
        rows: [items, choices], None where masked.
    """
    return tuple(tuple(None if v is None else float(f"{v:.6g}") for v in row) for row in rows)


def multiplied(rows: Rows, factor: float) -> Rows:
    """Multiply every score by a factor.

    Args:
        rows: [items, choices], None where masked.
        factor: see `CommonScale`.
    """
    return tuple(tuple(None if v is None else factor * v for v in row) for row in rows)


class ScoreArrays(Protocol):
    """Scores of matrices or tables under each of their choices."""

    choices: tuple[str, ...]
    value: Rows
    std_error: Rows
    weight_error: Rows
    fold_value: Folds
    masks: dict[str, dict[str, str]]


def check_arrays(scores: ScoreArrays, modules: Sequence[str], *, needs_weight_error: bool = True) -> None:
    """Check the shapes of score arrays, and what is masked.

    Args:
        scores: a `ScoreTable` or its `TableScores`.
        modules: the matrices or tables; row order of the arrays.
        needs_weight_error: whether `weight_error` may not be empty.

    Raises:
        ValueError: a choice or module is named twice, an array has another shape or is not masked where `value` is, or
            a masked choice is unknown or has a score.
    """
    once("choices", scores.choices)
    once("modules", modules)
    shape = len(modules), len(scores.choices)
    named = [(name, getattr(scores, name)) for name in ("value", "std_error")]
    if scores.weight_error or needs_weight_error:
        named.append(("weight_error", scores.weight_error))
    for name, rows in named + [("fold_value", rows) for rows in scores.fold_value]:
        if len(rows) != shape[0] or any(len(row) != shape[1] for row in rows):
            raise ValueError(f"{name} is not [{shape[0]} items, {shape[1]} choices]")
    masked = [[value is None for value in row] for row in scores.value]
    for name, rows in [("std_error", scores.std_error)] + [("fold_value", rows) for rows in scores.fold_value]:
        if [[value is None for value in row] for row in rows] != masked:
            raise ValueError(f"{name} is not null exactly where value is")
    for module, reasons in scores.masks.items():
        for name in reasons:
            if module not in modules or name not in scores.choices:
                raise ValueError(f"masks: {module}: {name} is not among the matrices or tables and their choices")
            if scores.value[modules.index(module)][scores.choices.index(name)] is not None:
                raise ValueError(f"masks: {module}: {name} has a score; a choice that is not allowed has null")


def once(what: str, names: Sequence[str]) -> None:
    """Check that no name occurs twice.

    Args:
        what: the field.
        names: its names.

    Raises:
        ValueError: names the first that does.
    """
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{what}: {twice[0]} is named twice")
