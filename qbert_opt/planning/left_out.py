"""A plan that states what it leaves out, and what that costs."""

from __future__ import annotations

import math

from ..spec.allocation import Allocation
from ..spec.dropped import DroppedHeads
from ..spec.planned import DroppedLayers


def with_dropped(plan: Allocation, dropped: DroppedLayers | DroppedHeads) -> Allocation:
    """Add the loss of the missing parts of a smaller model to every loss in its plan.

    Args:
        plan: of the smaller model.
        dropped: what it lacks.
    """
    more = dropped.predicted_loss

    def joined(error: float) -> float:
        return math.hypot(error, dropped.std_error)

    uniform = [
        rival.model_copy(
            update={
                "predicted_loss": rival.predicted_loss + more,
                "predicted_std_error": None if rival.predicted_std_error is None else joined(rival.predicted_std_error),
            }
        )
        for rival in plan.uniform
    ]
    return plan.model_copy(
        update={
            "dropped" if isinstance(dropped, DroppedLayers) else "dropped_heads": dropped,
            "predicted_loss": plan.predicted_loss + more,
            "predicted_std_error": joined(plan.predicted_std_error),
            "sum_of_scores": plan.sum_of_scores + more,
            "sum_std_error": joined(plan.sum_std_error),
            "lower_bound": None if plan.lower_bound is None else plan.lower_bound + more,
            "uniform": tuple(uniform),
            "random_loss": None if plan.random_loss is None else plan.random_loss + more,
        }
    )
