"""The choices for inputs of matrices that the engine of a plan can run."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import UsageError
from ..spec.activations import ActivationChoice
from .program import PlanningTask


def runnable_inputs(task: PlanningTask, activations: Sequence[ActivationChoice]) -> tuple[ActivationChoice, ...]:
    """Return the choices for inputs that the plan's engine runs as planned: in ranges and widths of its own.

    Args:
        task: its engine; without one all choices are returned.
        activations: choices for the inputs of matrices.

    Raises:
        UsageError: the engine runs none of them.
    """
    if task.target is None or not (task.target.rules.static_bits or task.target.rules.token_bits):
        return tuple(activations)
    rules = task.target.rules
    kept = tuple(choice for choice in activations if rules.runs_input(choice))
    if activations and not kept:
        held = (("static ranges", rules.static_bits), ("one range per token", rules.token_bits))
        ways = " or ".join(f"{what} of {' or '.join(map(str, bits))} bits" for what, bits in held if bits)
        why = f" ({rules.other_inputs})" if rules.other_inputs else ""
        raise UsageError(
            f"{task.target.said}: runs inputs with {ways}{why}; scored and selected are only "
            f"{', '.join(choice.name for choice in activations)}. Score and select what it runs, or leave the inputs "
            "to it with `activation_bits` none."
        )
    return kept
