"""Whether an export is accepted, and the message if it is not."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..engines.agreement import Agreement, AgreementLimits, Check, check_session, compare
from ..engines.opening import open_session
from ..engines.session import Activations, Engine
from ..spec.allocation import Allocation

# what rounding inputs to 8 bits may do: a fiftieth of a nat per answer is a tenth of what 2-bit plans lose
ROUNDING_LIMITS = AgreementLimits(loss=0.02, flipped=0.02, difference=0.5)
# rounded alike, an input near the border of two codes may still get the other one where sums have another order
SAME_ROUNDING_LIMITS = AgreementLimits(loss=0.01, flipped=0.02, difference=0.2)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of running an export.

    Attributes:
        agreement: as exported; None if an output is missing or not finite.
        graph_difference: largest difference in float32; infinite for a wrong graph, which no other rounding can fix.
        limits: largest accepted differences.
        refusal: why it is refused; None if it is accepted.
    """

    agreement: Agreement | None
    graph_difference: float
    limits: AgreementLimits
    refusal: str | None


def compared(
    module: Engine,
    kind: str,
    target: Path,
    activations: Activations,
    checks: Sequence[Check],
    references: Sequence[Check],
    whole: Sequence[Check],
    allocation: Allocation,
    tolerance: float | None,
) -> Outcome:
    """Run exported files and compare their outputs.

    Args:
        module: the engine.
        kind: what the model answers with.
        target: the files.
        activations: how products round their inputs.
        checks: questions with the answers of the quantized model in float32.
        references: the same with inputs rounded as planned, where they are; `checks` in float32.
        whole: one question as long as the model reads.
        allocation: the plan.
        tolerance: largest accepted loss; None takes the usual limits.
    """
    floats = open_session(module, target, activations="float32")
    started = time.process_time()
    graph = check_session(floats, kind, checks)
    float_s = time.process_time() - started
    longest = check_session(floats, kind, whole)
    limits = SAME_ROUNDING_LIMITS if activations == "planned" else ROUNDING_LIMITS
    if tolerance is not None:
        limits = AgreementLimits(loss=tolerance)
    if graph is None or longest is None or max(graph.difference, longest.difference) > module.RULES.float_difference:
        found = "missing or not finite" if graph is None or longest is None else f"{graph}; at full length {longest}"
        return Outcome(
            None, math.inf, limits,
            f"{module.label()} disagrees with torch even with float32 activations: {found}. This is a bug in "
            "the export or the engine; please report it.",
        )  # fmt: skip
    agreement: Agreement | None = graph  # exported in float32, the files have just answered as they will
    slower = 1.0
    if activations != "float32":
        session = open_session(module, target, activations=activations)
        started = time.process_time()
        agreement = check_session(session, kind, references)
        slower = float_s / max(time.process_time() - started, 1e-9)
    graph_difference = max(graph.difference, longest.difference)
    if activations == "planned":
        refusal = _planned_refusal(kind, checks, references, allocation, tolerance, slower)
        if refusal is not None:
            return Outcome(agreement, graph_difference, limits, refusal)
    if limits.hold(agreement):
        return Outcome(agreement, graph_difference, limits, None)
    return Outcome(agreement, graph_difference, limits, _engine_refusal(module, activations, agreement, slower))


def _planned_refusal(
    kind: str,
    checks: Sequence[Check],
    references: Sequence[Check],
    allocation: Allocation,
    tolerance: float | None,
    slower: float,
) -> str | None:
    """Return why the plan's static ranges change the quantized model's outputs too much; None if they do not."""
    rounding = compare(kind, [(a.answers, b.answers) for a, b in zip(checks, references, strict=True)])
    predicted = sum(item.predicted_loss for item in allocation.activations)
    limits = _with_loss(ROUNDING_LIMITS, 2 * predicted) if tolerance is None else AgreementLimits(loss=tolerance)
    if limits.hold(rounding):
        return None
    return (
        f"static 8-bit activations change too much ({rounding}; the plan predicted {predicted:.2g}). "
        f"`activations` int8 rounds them in small blocks, float32 not at all ({slower:.1f}x slower here); "
        "`tolerance` accepts more."
    )


def _with_loss(limits: AgreementLimits, loss: float) -> AgreementLimits:
    """Return limits whose loss is at least a number."""
    return limits.model_copy(update={"loss": max(limits.loss or 0.0, loss)})


def _engine_refusal(module: Engine, activations: Activations, agreement: Agreement | None, slower: float) -> str:
    found = "outputs that are missing or not finite" if agreement is None else str(agreement)
    if activations == "float32":
        return f"{module.label()} disagrees with torch: {found}. This is a bug in the export; please report it."
    if activations == "planned":
        return (
            f"{module.label()} disagrees with torch with the same rounding: {found}. This is a bug in the "
            "export or the engine; please report it."
        )
    finer = " `activations` int8 rounds in smaller blocks." if activations == "int8-coarse" else ""
    return (
        f"8-bit activations as {module.label()} rounds them ({activations}) change too much: {found}.{finer} "
        f"`activations` float32 leaves them as they are ({slower:.1f}x slower here); scoring again with "
        "`activation_bits` 8 plans static ranges; `tolerance` accepts more."
    )
