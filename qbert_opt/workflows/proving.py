"""The smallest or fastest plan that is proven to meet limits on answers.

Plans are checked in an order that is fixed before any check text is read: the plan of least predicted loss first, then
smaller and smaller (or faster and faster) ones, up to the first that cannot be proven. The last proven one is chosen.
In such a fixed sequence every test keeps the full confidence, however many there are (Maurer, Hothorn and Lehmacher
1995;
Angelopoulos et al. 2021, "Learn then test", section 2.3): a plan that violates a limit is accepted with a probability
of at most 1 − confidence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import InfeasibleError
from ..evaluation.counts import ChangedAnswers, upper_drop, upper_share
from ..evaluation.flips import FlipRelation
from ..runtime.progress import Progress
from ..spec.quality import QualityLimits
from .outcome import ShareProof
from .route import Route, file_bytes
from .shipping import CheckSetup, Shipped, ship
from .solve import Solved

STEPS = (0.1, *(0.2 * 1.25**step for step in range(14)))
"""Predicted losses of the plans to check, relative to the loss at which a proof is as likely as not: up to 3.6.

At 25 % more loss a plan is about 3 % smaller.
"""
LATENCY_STRIDE = 3  # bits and residency together are slow to solve: fewer plans if latency is the goal


@dataclass(frozen=True, slots=True)
class Proven:
    """The chosen plan.

    Attributes:
        shipped: its files, measured.
        solved: its program and predicted cost.
        tried: every plan that was checked, in order.
    """

    shipped: Shipped
    solved: Solved
    tried: tuple[Shipped, ...]


def proofs(changed: ChangedAnswers, quality: QualityLimits) -> tuple[ShareProof, ...]:
    """Return what counted answers prove about limits.

    Args:
        changed: answers on texts that chose nothing.
        quality: the limits.
    """
    made = []
    flips = changed.flipped / changed.num_texts
    most = upper_share(changed.flipped, changed.num_texts, quality.confidence)
    if quality.accuracy_drop is not None:
        drop, upper, labelled = flips, most, changed.drop is not None
        if changed.lost is not None and changed.won is not None:
            drop = (changed.lost - changed.won) / changed.num_texts
            upper = upper_drop(changed.lost, changed.won, changed.num_texts, quality.confidence)
        made.append(_proof("accuracy_drop", quality.accuracy_drop, drop, upper, quality, not labelled))
    if quality.flips is not None:
        made.append(_proof("flips", quality.flips, flips, most, quality, False))
    return tuple(made)


def likely_loss(relation: FlipRelation, quality: QualityLimits, num_texts: int, *, labelled: bool) -> float:
    """Return the mean KL at which the check texts are expected to just prove the limits.

    Args:
        relation: of KL and answers, from the scoring text.
        quality: the limits.
        num_texts: check texts.
        labelled: whether they have labels.
    """

    def proven(kl: float) -> bool:
        flips = relation.flipped(kl)
        if quality.flips is not None and upper_share(flips * num_texts, num_texts, quality.confidence) > quality.flips:
            return False
        if quality.accuracy_drop is None:
            return True
        if not labelled:
            return upper_share(flips * num_texts, num_texts, quality.confidence) <= quality.accuracy_drop
        drop = relation.dropped(kl)
        lost, won = (num_texts * (flips + drop) / 2, num_texts * max(0.0, flips - drop) / 2)
        return upper_drop(lost, won, num_texts, quality.confidence) <= quality.accuracy_drop

    low, high = math.log(1e-12), math.log(10.0)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if proven(math.exp(middle)) else (low, middle)
    return math.exp(low)


def prove_smallest(
    setup: CheckSetup,
    route: Route,
    relation: FlipRelation,
    quality: QualityLimits,
    folder: Path,
    progress: Progress,
) -> Proven:
    """Check smaller and smaller, or faster and faster, plans, and return the last that is proven to meet the limits.

    Args:
        setup: model, texts and engine.
        route: makes plans; its own plan is the one of least predicted loss.
        relation: of KL and answers, from the scoring text.
        quality: the limits.
        folder: for the plans that are tried.
        progress: called with the current step.

    Raises:
        InfeasibleError: not even the plan of least predicted loss is proven to keep them; says what it was measured at.
    """
    folder.mkdir(exist_ok=True)
    goal = likely_loss(relation, quality, len(setup.check), labelled=setup.targets is not None)
    taken: tuple[Shipped, Solved] | None = None
    tried: list[Shipped] = []
    for number, solved in enumerate(_sequence(route, goal), 1):

        def tell(done: int, total: int, what: str, number: int = number) -> None:
            progress(done, total, f"plan {number} of at most {len(STEPS) + 1}: {what}")

        shipped = ship(setup, solved.plan, folder / str(number), tell)
        tried.append(shipped)
        if not all(proof.holds for proof in proofs(shipped.changed, quality)):
            break
        taken = shipped, solved
    if taken is None:
        raise InfeasibleError(_refusal(tried[0], quality))
    return Proven(*taken, tuple(tried))


def _sequence(route: Route, goal: float) -> Iterator[Solved]:
    """Yield the plan of least predicted loss, then the smallest or fastest plan at each of a few larger losses."""
    safest, amount = route.solved, route.request.amount
    yield safest
    last = amount(safest)
    for step in STEPS if route.request.least == "bytes" else STEPS[::LATENCY_STRIDE]:
        most = step * goal - route.engine_rounding
        if most <= 0:
            continue
        try:
            solved = route.smallest(most)
        except InfeasibleError:  # no plan within the other limits has so little loss
            continue
        if amount(solved) < last:
            last = amount(solved)
            yield solved


def _proof(limit: str, allowed: float, measured: float, upper: float, quality: QualityLimits, bare: bool) -> ShareProof:
    return ShareProof(
        limit=limit,  # type: ignore[arg-type]
        allowed=allowed, measured=measured, upper=upper, confidence=quality.confidence, holds=upper <= allowed,
        without_labels=bare,
    )  # fmt: skip


def _refusal(shipped: Shipped, quality: QualityLimits) -> str:
    total = shipped.changed.num_texts
    broken = [proof for proof in proofs(shipped.changed, quality) if not proof.holds]
    said = "; ".join(
        f"`max_{proof.limit}` {100 * proof.allowed:g} %: measured {100 * proof.measured:.2f} % of {total} texts, at "
        f"most {100 * proof.upper:.2f} % at {100 * proof.confidence:g} % confidence"
        for proof in broken
    )
    where = "PyTorch" if shipped.exported is None else shipped.exported.engine_label
    planned = shipped.exported is not None and shipped.exported.activations == "planned"
    inputs = "; `activations` int8 rounds inputs in smaller blocks" if planned else ""
    return (
        f"no plan is proven to meet every limit: that of least predicted loss ({file_bytes(shipped.plan) / 1e6:.2f} "
        f"MB, in {where}) has {said}. Give more text to check on, allow more, or raise the other limits{inputs}."
    )
