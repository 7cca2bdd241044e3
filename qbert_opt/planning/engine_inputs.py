"""The choices for inputs of matrices that the engine of a plan can run."""

from __future__ import annotations

from collections.abc import Sequence
from warnings import warn

from ..errors import QbertOptWarning, UsageError
from ..spec.activations import ActivationChoice
from .program import PlanningTask


def runnable_inputs(task: PlanningTask, activations: Sequence[ActivationChoice]) -> tuple[ActivationChoice, ...]:
    """Return the choices for inputs that the plan's engine runs as planned, with ranges and widths that it supports.

    Args:
        task: its engine; without one, or if the engine opens the quantized folder itself, all choices are returned.
        activations: choices for the inputs of matrices.

    Raises:
        UsageError: the engine runs none of them, or none of their widths, but others.

    Warns:
        QbertOptWarning: the engine runs no choice of one of the widths, or rounds all inputs in its own way.
    """
    if task.target is None:
        return tuple(activations)
    rules = task.target.rules
    if task.target.leaves_inputs and activations:
        widths = rules.integer_inputs.get("gemm", ())
        if widths and not any(choice.bits in widths for choice in activations):
            raise UsageError(
                f"{task.target.said}: rounds inputs in its own way, to {' or '.join(map(str, widths))} bits; selected "
                f"are only {', '.join(choice.name for choice in activations)}. Leave the inputs to it with "
                "`activation_bits` none."
            )
        own = "rounds inputs in its own way, so the plan leaves them out, and predictions are without that loss"
        warn(QbertOptWarning(f"{task.target.said}: {own}."), stacklevel=2)
        return ()
    if not (rules.static_bits or rules.token_bits):
        return tuple(activations)
    kept = tuple(choice for choice in activations if rules.runs_input(choice))
    lost = sorted({choice.bits for choice in activations} - {choice.bits for choice in kept})
    if not lost:
        return kept
    held = (("static ranges", rules.static_bits), ("one range per token", rules.token_bits))
    ways = " or ".join(f"{what} of {' or '.join(map(str, bits))} bits" for what, bits in held if bits)
    runs = f"{task.target.said}: runs inputs with {ways}{f' ({rules.other_inputs})' if rules.other_inputs else ''}"
    if not kept:
        raise UsageError(
            f"{runs}; scored and selected are only {', '.join(choice.name for choice in activations)}. Score and "
            "select what it runs, or leave the inputs to it with `activation_bits` none."
        )
    warn(QbertOptWarning(f"{runs}; inputs of {' and '.join(map(str, lost))} bits are left out."), stacklevel=2)
    return kept
