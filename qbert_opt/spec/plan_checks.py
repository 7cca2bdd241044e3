"""Checks of a plan read from a file: every figure that follows from its profile, choices or parts is recomputed.

What does not follow from the plan alone is trusted: the proof (`gap`, `lower_bound`), costs on a device, the file of an
engine, and losses unless the scores are given too.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..errors import UsageError
from .cache import check_decoding
from .choices import choice
from .part_checks import check_parts, require
from .quantities import LOSSES

if TYPE_CHECKING:
    from .allocation import Allocation
    from .dropped import DroppedHeads
    from .planned import DroppedLayers, PlannedActivation, PlannedCache, PlannedMatrix, PlannedTable

    Scored = PlannedMatrix | PlannedTable | PlannedActivation | PlannedCache | DroppedLayers | DroppedHeads

STATUSES = ("optimal", "feasible", "time_limit", "unproven")
PROVEN_GAP = 1e-6
RESCORED = "quantized in sequence and scored again"
"""Ends `contains` if the losses belong to other codes than those that the solver chose from."""
DIGITS = 1e-9  # relative: of figures that are sums of those in the file


def check_plan(plan: Allocation) -> None:
    """Check that a plan is consistent.

    Args:
        plan: as read from a file.

    Raises:
        ValueError: a field differs from what follows from the others; names the field, what it says and what is right.
    """
    check_parts(plan)
    _check_bytes(plan)
    _check_losses(plan)
    _check_proof(plan)
    _check_costs(plan)
    _check_limits(plan)


def _is_sum(name: str, value: float, right: float, magnitude: float) -> None:
    """Raise ValueError if a value is not the sum that it should be, up to rounding of terms of a magnitude."""
    if not math.isfinite(right) or abs(value - right) > DIGITS * max(magnitude, abs(right)):
        raise ValueError(f"{name} is {value:.6g}; its parts give {right:.6g}.")


def _check_bytes(plan: Allocation) -> None:
    encoder_bytes = sum(m.bytes for m in plan.matrices)
    if plan.encoder_bytes != encoder_bytes:
        raise ValueError(f"encoder_bytes is {plan.encoder_bytes}; the matrices take {encoder_bytes}.")
    total_bytes = encoder_bytes + sum(t.bytes for t in plan.tables) + plan.profile.other_bytes
    if plan.total_bytes != total_bytes:
        raise ValueError(f"total_bytes is {plan.total_bytes}; matrices, tables and the rest take {total_bytes}.")
    average_bits = 8 * encoder_bytes / plan.profile.encoder_elements
    if not math.isclose(plan.average_bits, average_bits, rel_tol=DIGITS):
        raise ValueError(f"average_bits is {plan.average_bits:g}; the matrices take {average_bits:.6g} bits a weight.")


def _scored_parts(plan: Allocation) -> list[Scored]:
    """Everything whose loss is in the plan's."""
    single = [part for part in (plan.cache, plan.dropped, plan.dropped_heads) if part is not None]
    return [*plan.matrices, *plan.tables, *plan.activations, *single]


def _check_losses(plan: Allocation) -> None:
    parts = _scored_parts(plan)
    losses = [part.predicted_loss or 0.0 for part in parts]
    size = sum(map(abs, losses))
    _is_sum("sum_of_scores", plan.sum_of_scores, sum(losses), size)
    error = math.hypot(*(part.std_error or 0.0 for part in parts))
    _is_sum("sum_std_error", plan.sum_std_error, error, error)
    if not plan.folds:
        _is_sum("predicted_loss", plan.predicted_loss, plan.sum_of_scores, size)
        _is_sum("predicted_std_error", plan.predicted_std_error, plan.sum_std_error, error)
    if plan.folds == 1:
        raise ValueError("folds is 1; legal: 0 for a sum of scores, else 2 or more.")
    scored = any(table.predicted_loss is not None for table in plan.tables)
    told = bool(plan.activations) and "activations" in plan.roundings  # inputs that cost nothing need not be told of
    inputs = told or any(a.predicted_loss for a in plan.activations)
    cache = plan.cache is not None and plan.cache.is_rounded and plan.cache.predicted_loss is not None
    rounded = {"matrices": True, "tables": scored, "activations": inputs, "cache": cache}
    require("", roundings=(plan.roundings, tuple(name for name, in_losses in rounded.items() if in_losses)))


def _check_proof(plan: Allocation) -> None:
    if plan.status not in STATUSES:
        raise ValueError(f"status is {plan.status!r}; legal: {', '.join(STATUSES)}.")
    if plan.status == "optimal" and (plan.gap is None or plan.gap > PROVEN_GAP):
        gap = "none" if plan.gap is None else f"{plan.gap:g}"
        raise ValueError(f"status is 'optimal' and gap is {gap}; optimal is a gap of at most {PROVEN_GAP:g}.")
    for rival in plan.uniform:
        where = f"uniform: {rival.choice}: "
        if plan.engine is None:
            try:
                same = choice(rival.choice)
                profile = plan.profile
                sizes = [same.bytes(m.rows, m.columns, heads=profile.heads_of(m)) for m in profile.matrices]
            except UsageError:
                raise ValueError(f"{where}is no choice that every matrix can have.") from None
            require(where, encoder_bytes=(rival.encoder_bytes, sum(sizes)))


def _check_limits(plan: Allocation) -> None:
    """Check the stated use of each limit against the figure it limits, if the plan contains that figure."""
    file = plan if plan.engine is None else plan.engine
    figures: dict[str, float] = {"encoder_bytes": file.encoder_bytes, "total_bytes": file.total_bytes}
    if not plan.contains.endswith(RESCORED):
        figures |= {"sum_of_scores": plan.sum_of_scores, "predicted_loss": plan.predicted_loss}
    if plan.device is not None:
        figures |= {name: value for name, value in plan.device if isinstance(value, (int, float))}
    if plan.device is not None and plan.device.decode is not None:
        figures["token_s"] = plan.device.decode.token_s
    for limit in plan.limits:
        where = f"limits: {limit.resource}: "
        if limit.resource not in LOSSES and limit.capacity < 0:  # a limit on a loss only makes a plan impossible
            raise ValueError(f"{where}capacity is {limit.capacity:g}; legal: 0 or more.")
        right = figures.get(limit.resource)
        if right is not None and not math.isclose(limit.used, right, rel_tol=DIGITS, abs_tol=1e-300):
            raise ValueError(f"{where}used is {limit.used:g}; the plan uses {right:g}.")
        if limit.resource in ("encoder_bytes", "total_bytes") and limit.used > limit.capacity:
            raise ValueError(f"{where}used is {limit.used:g}; the limit is {limit.capacity:g}.")


def _check_costs(plan: Allocation) -> None:
    """Check that costs which only a simulator can recompute do not contradict each other."""
    check_decoding(plan)
    if plan.engine is not None:
        file = plan.engine
        if file.total_bytes < file.encoder_bytes + file.graph_bytes:
            raise ValueError(
                f"engine: total_bytes is {file.total_bytes}; matrices and graph alone take "
                f"{file.encoder_bytes + file.graph_bytes}."
            )
    if plan.outlook is not None:
        names = (*plan.outlook.runs, *filter(None, [plan.outlook.instead]))
        unknown = [name for name in names if name not in plan.outlook.engines]
        if unknown:
            raise ValueError(f"outlook: {unknown[0]!r} is not in its engines: {', '.join(plan.outlook.engines)}.")
