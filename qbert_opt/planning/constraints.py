"""What a user wants of a plan beside limits: choices left out, links between matrices, and what is to be least.

A wish is a name: it holds for every matrix and scored table whose module has the name in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..spec.choices import Choice
from ..spec.profiles import TABLE_BITS, MatrixSpec, TableSpec
from ..spec.scores import ScoreTable

RESOURCES = {
    "bytes": "encoder_bytes",
    "total-bytes": "total_bytes",
    "latency": "latency_bound_s",
    "energy": "energy_bound_j",
    "dram": "dram_bytes",
    "bops": "bops",
}
"""What a frontier runs over and what can be least, as rows of the program; latency and energy by their bounds."""
EXCLUDED_GROUPING = "rows:each"
FUSED = "qkv"
FUSED_KINDS = ("query", "key", "value")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is wanted of a plan; None and empty want nothing.

    Attributes:
        bits: bit widths of matrices to choose from.
        groupings: groupings of matrices to choose from.
        table_bits: bit widths of scored tables to choose from.
        pins: bits by name.
        excluded: names of what is not searched: 8 bits, one range per row, as tables that nobody scored.
        ties: names of what chooses alike, each name a tie of its own; `qkv` ties query, key and value of each layer.
        max_formats: most different formats (bits, grouping and form) among the matrices.
        max_loss: largest predicted loss; then `least` is what is least, a name in `RESOURCES`.
        least: None is the predicted loss.
    """

    bits: Sequence[int] | None = None
    groupings: Sequence[str] | None = None
    table_bits: Sequence[int] | None = None
    pins: Mapping[str, int] = field(default_factory=dict)
    excluded: Sequence[str] = ()
    ties: Sequence[str] = ()
    max_formats: int | None = None
    max_loss: float | None = None
    least: str | None = None


def check_goal(wishes: Wishes, *, has_device: bool) -> None:
    """Refuse half a reverse question, or one that nothing can price.

    Raises:
        UsageError: says what is missing.
    """
    if (wishes.max_loss is None) != (wishes.least is None):
        raise UsageError("--max-loss and --least belong together, for example --max-loss 0.001 --least bytes.")
    if wishes.least is None or wishes.max_loss is None:
        return
    if wishes.least not in RESOURCES:
        raise UsageError(f"--least {wishes.least}: legal: {', '.join(RESOURCES)}.")
    if wishes.least not in ("bytes", "total-bytes") and not has_device:
        raise UsageError(f"--least {wishes.least}: needs --device to be priced on.")
    if not math.isfinite(wishes.max_loss):
        raise UsageError(f"--max-loss {wishes.max_loss}: must be a finite number.")


def wanted(scores: ScoreTable, choices: Sequence[Choice], wishes: Wishes) -> NDArray[np.bool_]:
    """Return what the wishes leave to each item, bool [items, choices].

    Raises:
        UsageError: a filter that leaves nothing, or a name that nothing has.
    """
    legal: NDArray[np.bool_] = np.isfinite(scores.item_values())
    matrices = len(scores.profile.matrices)
    kept = [
        (wishes.bits is None or c.bits in wishes.bits) and (wishes.groupings is None or c.grouping in wishes.groupings)
        for c in choices
    ]
    if not any(kept[: len(scores.choices)]):
        raise UsageError(f"--bits/--groupings: none of these was scored. Scored: {', '.join(scores.choices)}.")
    before = legal.copy()
    legal[:matrices] &= np.array(kept)
    if wishes.table_bits is not None:
        legal[matrices:] &= np.array([c.bits in wishes.table_bits for c in choices])
        if len(legal) == matrices or not legal[matrices:].any(axis=1).all():
            scored = scores.tables.choices if scores.tables else ("none",)
            raise UsageError(f"--table-bits: not scored for every table. Scored: {', '.join(scored)}.")
    for name, width in wishes.pins.items():
        rows = _named(scores, name, f"--pin {name}={width}")
        columns = np.array([c.bits == width for c in choices])
        if not (legal[rows] & columns).any(axis=1).all():
            raise UsageError(f"--pin {name}={width}: {width} bits were not scored or are masked for it.")
        legal[rows] &= columns
    plain = np.array([(c.bits, c.grouping) == (TABLE_BITS, EXCLUDED_GROUPING) for c in choices])
    for name in wishes.excluded:
        rows = _named(scores, name, f"--exclude {name}")
        if not (before[rows] & plain).any(axis=1).all():
            raise UsageError(
                f"--exclude {name}: is kept at {TABLE_BITS} bits, {EXCLUDED_GROUPING}, which was not scored for it. "
                f"Score that too, or use --pin {name}=BITS."
            )
        legal[rows] = before[rows] & plain
    return legal


def ties(scores: ScoreTable, wishes: Wishes) -> tuple[tuple[str, ...], ...]:
    """Return the sets of modules that choose alike.

    Raises:
        UsageError: a name that fewer than two have.
    """
    return tuple(tie for name in wishes.ties for tie in _ties(scores, name))


def _ties(scores: ScoreTable, name: str) -> Iterator[tuple[str, ...]]:
    if name != FUSED:
        rows = _named(scores, name, f"--tie {name}")
        if len(rows) < 2:
            raise UsageError(f"--tie {name}: only {scores.items[rows[0]].module} has that name. A tie needs two.")
        yield tuple(scores.items[i].module for i in rows)
        return
    inside = [m for m in scores.profile.matrices if m.kind in FUSED_KINDS]
    if not inside:
        raise UsageError(f"--tie {FUSED}: {scores.profile.name} has no separate query, key and value.")
    for _, block in groupby(sorted(inside, key=_block), key=_block):
        yield tuple(m.module for m in block)


def _block(matrix: MatrixSpec) -> int:
    return matrix.block


def formats(scores: ScoreTable, choices: Sequence[Choice]) -> tuple[str | None, ...]:
    """Return the format that a kernel for each choice serves; None for what only tables are stored as."""
    return tuple(f"{c.bits}bit/{c.grouping}/{c.form}" if c.name in scores.choices else None for c in choices)


def _named(scores: ScoreTable, name: str, option: str) -> list[int]:
    items: tuple[MatrixSpec | TableSpec, ...] = scores.items
    rows = [i for i, item in enumerate(items) if name in item.module]
    if not rows or not name:
        raise UsageError(f"{option}: no matrix of {scores.profile.name} has {name!r} in its name.")
    return rows
