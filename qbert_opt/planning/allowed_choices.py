"""Which choices the constraints, the engine and the scores leave to each matrix and table."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..costs.engine_target import EngineTarget
from ..costs.portable import engines_of_width
from ..errors import UsageError
from ..spec.choices import Choice
from ..spec.forms import Form
from ..spec.profiles import TABLE_BITS, MatrixSpec, TableSpec
from ..spec.scores import ScoreTable
from ..spec.tables import TABLE_CHOICE
from .constraints import PlanConstraints, named_rows

EXCLUDED_GROUPING = "rows:each"


def allowed_choices(
    scores: ScoreTable,
    choices: Sequence[Choice],
    constraints: PlanConstraints,
    target: EngineTarget | None = None,
) -> NDArray[np.bool_]:
    """Return which choices the constraints leave to each item, bool `[items, choices]`.

    Args:
        scores: predicted losses; a choice that was not scored for an item is not allowed.
        choices: the choices, in column order.
        constraints: the user's constraints.
        target: the engine that must be able to run the plan; None for any.

    Raises:
        UsageError: no choice is left, or a name matches no matrix.
    """
    legal: NDArray[np.bool_] = np.isfinite(scores.item_values())
    matrices = len(scores.profile.matrices)
    kept = [
        (constraints.bits is None or c.bits in constraints.bits)
        and (constraints.groupings is None or c.grouping in constraints.groupings)
        for c in choices
    ]
    of_matrices = choices[: len(scores.choices)]
    if not any(kept[: len(of_matrices)]):
        raise UsageError(
            f"{_asked(constraints)}: none of these was scored. Scored: {_listed(c.bits for c in of_matrices)} bits, in "
            f"{_listed(c.grouping for c in of_matrices)}."
        )
    if target is not None:
        legal &= held_choices(scores, choices, legal, target)
    before = legal.copy()
    legal[:matrices] &= np.array(kept)
    if target is not None:
        for i in np.flatnonzero(~legal[:matrices].any(axis=1)).tolist():
            wanted = [c for c, keep in zip(choices[: len(scores.choices)], kept, strict=False) if keep]
            held = {(c.bits, c.form) for c, good in zip(choices, before[i], strict=True) if good}
            raise UsageError(_none_held(scores.profile.matrices[i], wanted, held, constraints, target))
    if constraints.table_bits is not None:
        legal[matrices:] &= np.array([c.bits in constraints.table_bits for c in choices])
        if len(legal) == matrices or not legal[matrices:].any(axis=1).all():
            scored = scores.tables.choices if scores.tables else ("none",)
            raise UsageError(f"`table_bits`: not scored for every table. Scored: {', '.join(scored)}.")
    for name, width in constraints.pins.items():
        rows = named_rows(scores, name, f"`pins` {name}={width}")
        columns = np.array([c.bits == width for c in choices])
        if not (legal[rows] & columns).any(axis=1).all():
            raise UsageError(f"`pins` {name}={width}: {width} bits were not scored for it, or are not allowed.")
        legal[rows] &= columns
    plain = np.array([(c.bits, c.grouping) == (TABLE_BITS, EXCLUDED_GROUPING) for c in choices])
    for name in constraints.excluded:
        rows = named_rows(scores, name, f"`excluded` {name}")
        if not (before[rows] & plain).any(axis=1).all():
            raise UsageError(
                f"`excluded` {name}: an excluded matrix has {TABLE_BITS} bits and grouping {EXCLUDED_GROUPING}, which "
                f"was not scored for it. Score that choice too, or use `pins` {name}=BITS."
            )
        legal[rows] = before[rows] & plain
    return legal


def held_choices(
    scores: ScoreTable, choices: Sequence[Choice], legal: NDArray[np.bool_], target: EngineTarget
) -> NDArray[np.bool_]:
    """Return which of the legal choices an engine supports, bool `[items, choices]`.

    Args:
        scores: the items.
        choices: the choices, in column order.
        legal: bool [items, choices].
        target: the engine.

    Raises:
        UsageError: a table is in tiers and the engine needs it whole, the engine supports no legal choice of some item,
            or not the default choice of an unscored table.
    """
    tier = next((table for table in scores.profile.tables if table.tier_of), None)
    if tier is not None and target.whole_tables:  # first: no other scores would help
        named = " and ".join(target.whole_tables)
        hold = "holds" if len(target.whole_tables) == 1 else "hold"
        raise UsageError(
            f"{target.said}: {tier.tier_of} of {scores.profile.name} is in tiers, and {named} {hold} whole tables. "
            "Plan for the model that it was made from."
        )
    held = np.zeros(legal.shape, dtype=bool)
    for i, item in enumerate(scores.items):
        for j in np.flatnonzero(legal[i]).tolist():
            held[i, j] = target.refusal(item, choices[j]) is None
        width = target.width_refusal(item)
        if width is not None:
            raise UsageError(
                f"{target.said}: {item.module} has {width}, however it is stored. Engines that support it: "
                f"{', '.join(engines_of_width(item.columns))}."
            )
        if not held[i].any():
            reason = next((target.refusal(item, choices[j]) for j in np.flatnonzero(legal[i]).tolist()), "")
            raise UsageError(
                f"{target.said}: supports none of the choices scored for {item.module} ({reason}). "
                f"It supports {target.held}. Score such choices."
            )
    for table in unscored_tables(scores):
        reason = target.refusal(table, TABLE_CHOICE)
        if reason is not None:
            raise UsageError(
                f"{target.said}: cannot hold {table.module}, which was not scored and so has {TABLE_CHOICE.name} "
                f"({reason}). Score tables too, in forms that it supports (`table_bits`, `forms`)."
            )
    return held


def unscored_tables(scores: ScoreTable) -> tuple[TableSpec, ...]:
    """Return the embedding tables that have no scores, and so no choice.

    Args:
        scores: of the model.
    """
    scored = set(scores.tables.modules if scores.tables else ())
    return tuple(table for table in scores.profile.tables if table.module not in scored)


def _asked(constraints: PlanConstraints) -> str:
    """The bits and groupings that the user gave, as given."""
    lists = {"bits": constraints.bits, "groupings": constraints.groupings}
    return " ".join(f"`{name}` {','.join(map(str, found))}" for name, found in lists.items() if found is not None)


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, dict.fromkeys(values)))


def _none_held(
    matrix: MatrixSpec,
    wanted: Sequence[Choice],
    held: Collection[tuple[int, Form]],
    constraints: PlanConstraints,
    target: EngineTarget,
) -> str:
    """Return the message that an engine supports none of the bits and groupings that the user allows, and why.

    Args:
        matrix: has no choice left.
        wanted: the choices that the user allows.
        held: widths and forms that the engine supports in other groupings; their reasons are the most specific.
        constraints: the user's constraints.
        target: the engine.
    """
    given = _asked(constraints)
    closest = sorted(wanted, key=lambda c: (c.bits, c.form) not in held)
    reason = next(filter(None, (target.refusal(matrix, c) for c in closest)), "none was scored for it")
    return f"{given}: {target.said} cannot hold {matrix.module} so: {reason}."
