"""Constraints on a plan besides its limits: excluded choices, links between matrices, and what is minimized."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, ValidationError

from ..costs.portable import engines_of_width
from ..costs.stored import EngineTarget
from ..errors import UsageError
from ..runtime.frozen import Frozen
from ..spec.choices import Choice
from ..spec.forms import Form
from ..spec.limits import Measure
from ..spec.profiles import TABLE_BITS, MatrixSpec, TableSpec
from ..spec.scores import ScoreTable
from ..spec.tables import TABLE_CHOICE

RESOURCES: dict[str, Measure] = {
    "bytes": "encoder_bytes",
    "total-bytes": "total_bytes",
    "latency": "latency_bound_s",
    "energy": "energy_bound_j",
    "dram": "dram_bytes",
    "bops": "bops",
}
"""Resources that a frontier can span and a plan can minimize, as rows of the program.

Latency and energy stand for their separable upper bounds.
"""
EXCLUDED_GROUPING = "rows:each"
FUSED = "qkv"
FUSED_KINDS = ("query", "key", "value")


class PlanConstraints(Frozen):
    """What a plan must satisfy besides limits on its resources. Names match every module that contains them.

    Attributes:
        bits: bit widths that matrices may take; None allows every one that was scored.
        groupings: groupings that matrices may take; None allows every one that was scored.
        table_bits: bit widths that scored embedding tables may take; None allows every one that was scored.
        engine: engine that must be able to run the plan; choices that it cannot run are excluded.
        portable: engines that must all store the plan in the same codes, or `all`; excludes `engine`.
        pins: fixed bit width by name.
        excluded: names of matrices kept out of the search, at 8 bits with one range per row.
        ties: names whose matrices all take the same choice; `qkv` ties query, key and value of each layer.
        max_formats: largest number of different formats (bits, grouping and form) among the matrices.
        max_loss: largest predicted loss; requires `least`.
        least: resource to minimize under `max_loss`, a name in `RESOURCES`; None minimizes the predicted loss.
    """

    model_config = ConfigDict(extra="forbid")

    bits: Sequence[int] | None = None
    groupings: Sequence[str] | None = None
    table_bits: Sequence[int] | None = None
    engine: str | None = None
    portable: Sequence[str] | None = None
    pins: Mapping[str, int] = Field(default_factory=dict)
    excluded: Sequence[str] = ()
    ties: Sequence[str] = ()
    max_formats: int | None = Field(default=None, ge=1)
    max_loss: float | None = None
    least: str | None = None

    if not TYPE_CHECKING:  # the typed constructor is pydantic's; this one names the legal fields

        def __init__(self, **fields):
            unknown = sorted(set(fields) - set(type(self).model_fields))
            if unknown:
                legal = ", ".join(type(self).model_fields)
                raise UsageError(f"PlanConstraints has no field {unknown[0]!r}. Legal: {legal}.")
            try:
                super().__init__(**fields)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                where = ".".join(map(str, first["loc"]))
                raise UsageError(f"PlanConstraints: `{where}`: {first['msg']}; found {first['input']!r}.") from None


def check_goal(constraints: PlanConstraints, *, has_device: bool) -> None:
    """Check that `max_loss` and `least` are given together, and that the resource can be priced.

    Args:
        constraints: the user's constraints.
        has_device: whether a device is given; all resources but bytes need one.

    Raises:
        UsageError: names what is missing or what is legal.
    """
    if (constraints.max_loss is None) != (constraints.least is None):
        raise UsageError("`max_loss` and `least` belong together, for example `max_loss` 0.001 `least` bytes.")
    if constraints.least is None or constraints.max_loss is None:
        return
    if constraints.least not in RESOURCES:
        raise UsageError(f"`least` {constraints.least}: legal: {', '.join(RESOURCES)}.")
    if constraints.least not in ("bytes", "total-bytes") and not has_device:
        raise UsageError(f"`least` {constraints.least}: needs `device`, which determines its cost.")
    if not math.isfinite(constraints.max_loss):
        raise UsageError(f"`max_loss` {constraints.max_loss}: must be a finite number.")


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
        rows = _named(scores, name, f"`pins` {name}={width}")
        columns = np.array([c.bits == width for c in choices])
        if not (legal[rows] & columns).any(axis=1).all():
            raise UsageError(f"`pins` {name}={width}: {width} bits were not scored for it, or are not allowed.")
        legal[rows] &= columns
    plain = np.array([(c.bits, c.grouping) == (TABLE_BITS, EXCLUDED_GROUPING) for c in choices])
    for name in constraints.excluded:
        rows = _named(scores, name, f"`excluded` {name}")
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
        UsageError: a table is in tiers and the engine holds it as a whole, the engine supports no legal choice of some
            item, or not what an unscored table has.
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
                f"{target.said}: {item.module} has {width}, however it is stored. Engines that hold it: "
                f"{', '.join(engines_of_width(item.columns))}."
            )
        if not held[i].any():
            reason = next((target.refusal(item, choices[j]) for j in np.flatnonzero(legal[i]).tolist()), "")
            raise UsageError(
                f"{target.said}: holds none of the choices scored for {item.module} ({reason}). "
                f"It holds {target.held}. Score such choices."
            )
    for table in unscored_tables(scores):
        reason = target.refusal(table, TABLE_CHOICE)
        if reason is not None:
            raise UsageError(
                f"{target.said}: cannot hold {table.module}, which was not scored and so has {TABLE_CHOICE.name} "
                f"({reason}). Score tables too, in forms that it holds (`table_bits`, `forms`)."
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
    """Say that an engine holds none of the bits and groupings that the user allows, and why.

    Args:
        matrix: has no choice left.
        wanted: the choices that the user allows.
        held: widths and forms that the engine holds in other groupings; their reasons say most.
        constraints: what the user gave.
        target: the engine.
    """
    given = _asked(constraints)
    closest = sorted(wanted, key=lambda c: (c.bits, c.form) not in held)
    reason = next(filter(None, (target.refusal(matrix, c) for c in closest)), "none was scored for it")
    return f"{given}: {target.said} cannot hold {matrix.module} so: {reason}."


def ties(scores: ScoreTable, constraints: PlanConstraints) -> tuple[tuple[str, ...], ...]:
    """Return the sets of modules that must share one choice.

    Args:
        scores: the matrices and scored tables.
        constraints: the user's constraints.

    Raises:
        UsageError: a name matches fewer than two matrices.
    """
    return tuple(tie for name in constraints.ties for tie in _ties(scores, name))


def _ties(scores: ScoreTable, name: str) -> Iterator[tuple[str, ...]]:
    if name != FUSED:
        rows = _named(scores, name, f"`ties` {name}")
        if len(rows) < 2:
            raise UsageError(f"`ties` {name}: matches only {scores.items[rows[0]].module}. A tie needs two matrices.")
        yield tuple(scores.items[i].module for i in rows)
        return
    inside = [m for m in scores.profile.matrices if m.kind in FUSED_KINDS]
    if not inside:
        raise UsageError(f"`ties` {FUSED}: {scores.profile.name} has no separate query, key and value.")
    for _, block in groupby(sorted(inside, key=_block), key=_block):
        yield tuple(m.module for m in block)


def _block(matrix: MatrixSpec) -> int:
    return matrix.block


def formats(scores: ScoreTable, choices: Sequence[Choice]) -> tuple[str | None, ...]:
    """Return the format of each choice (bits, grouping, form: what one kernel runs); None for choices of tables only.

    Args:
        scores: tells choices of matrices from those of tables only.
        choices: the choices, in column order.
    """
    return tuple(f"{c.bits}bit/{c.grouping}/{c.form}" if c.name in scores.choices else None for c in choices)


def _named(scores: ScoreTable, name: str, option: str) -> list[int]:
    items: tuple[MatrixSpec | TableSpec, ...] = scores.items
    rows = [i for i, item in enumerate(items) if name in item.module]
    if not rows or not name:
        raise UsageError(f"{option}: no matrix of {scores.profile.name} has {name!r} in its name.")
    return rows
