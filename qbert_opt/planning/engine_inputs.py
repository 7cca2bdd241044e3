"""The choices for inputs of matrices that the engine of a plan can run."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import UsageError
from ..spec.activations import ActivationChoice
from .program import PlanningTask


def runnable_inputs(task: PlanningTask, activations: Sequence[ActivationChoice]) -> tuple[ActivationChoice, ...]:
    """Return the choices for inputs that the plan's engine runs as planned: static ranges of its own widths.

    Args:
        task: its engine; without one all choices are returned.
        activations: choices for the inputs of matrices.

    Raises:
        UsageError: the engine runs none of them.
    """
    widths = () if task.target is None else task.target.rules.static_bits
    if not widths or task.target is None:
        return tuple(activations)
    kept = tuple(c for c in activations if c.scheme == "tensor" and c.bits in widths)
    if activations and not kept:
        raise UsageError(
            f"{task.target.said}: runs inputs with static ranges of {' or '.join(map(str, widths))} bits; "
            "none of these was scored, or none was selected. `activation_bits` none leaves the inputs to the engine."
        )
    return kept
