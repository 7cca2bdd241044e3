"""Constraints on a plan besides its limits: excluded choices, links between matrices, and what is minimized."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from pydantic import ConfigDict, Field, ValidationError

from ..errors import UsageError
from ..runtime.frozen import Frozen
from ..spec.choices import Choice
from ..spec.profiles import MatrixSpec, ModelProfile, TableSpec
from ..spec.quantities import Measure
from ..spec.scores import ScoreTable

RESOURCES: dict[str, Measure] = {
    "bytes": "encoder_bytes",
    "total-bytes": "total_bytes",
    "latency": "latency_bound_s",
    "token": "token_bound_s",
    "energy": "energy_bound_j",
    "dram": "dram_bytes",
    "bops": "bops",
}
"""Resources that a frontier can span and a plan can minimize, as rows of the program.

Latency and energy stand for their separable upper bounds; `token` is the latency of a decoder's token.
"""
OF_DECODERS = ("token",)
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
        cache_bits: widths that a decoder's cache may take; None allows 16 and those that were scored.
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
    cache_bits: Sequence[int] | None = None

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


def resources_of(profile: ModelProfile) -> list[str]:
    """Return the resources that a model has.

    Args:
        profile: the model.
    """
    return [name for name in RESOURCES if profile.causal or name not in OF_DECODERS]


def check_goal(constraints: PlanConstraints, profile: ModelProfile, *, has_device: bool) -> None:
    """Check that `max_loss` and `least` are given together, and that the resource can be priced.

    Args:
        constraints: the user's constraints.
        profile: the model.
        has_device: whether a device is given; all resources but bytes need one.

    Raises:
        UsageError: names what is missing or what is legal.
    """
    if (constraints.max_loss is None) != (constraints.least is None):
        raise UsageError("`max_loss` and `least` belong together, for example `max_loss` 0.001 `least` bytes.")
    if constraints.least is None or constraints.max_loss is None:
        return
    if constraints.least not in (legal := resources_of(profile)):
        raise UsageError(f"`least` {constraints.least}: legal: {', '.join(legal)}.")
    if constraints.least not in ("bytes", "total-bytes") and not has_device:
        raise UsageError(f"`least` {constraints.least}: needs `device`, which determines its cost.")
    if not math.isfinite(constraints.max_loss):
        raise UsageError(f"`max_loss` {constraints.max_loss}: must be a finite number.")


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
        rows = named_rows(scores, name, f"`ties` {name}")
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


def named_rows(scores: ScoreTable, name: str, option: str) -> list[int]:
    """Return the indices of the items whose module contains a name.

    Args:
        scores: the matrices and scored tables.
        name: a part of their names.
        option: what the user gave, for the message.

    Raises:
        UsageError: there is none.
    """
    items: tuple[MatrixSpec | TableSpec, ...] = scores.items
    rows = [i for i, item in enumerate(items) if name in item.module]
    if not rows or not name:
        raise UsageError(f"{option}: no matrix of {scores.profile.name} has {name!r} in its name.")
    return rows
