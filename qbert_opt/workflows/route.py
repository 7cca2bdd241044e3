"""How an engine runs the model: which inputs the plan rounds, which the engine rounds, and the resulting plans."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..costs.workload import Workload
from ..engines.session import Activations, rules_of
from ..errors import InfeasibleError, UsageError
from ..planning.constraints import PlanConstraints
from ..spec.activations import ActivationChoice, activation_choice
from ..spec.allocation import Allocation
from ..spec.limits import Limits
from ..spec.scores import ScoreTable
from .solve import Solved, solve_plans

if TYPE_CHECKING:
    from hwmodels import Device


BY_TOKEN = ActivationChoice(8)
LEAST = {"bytes": "total-bytes", "latency": "latency"}
"""What can be minimized under limits on answers, and its name among `planning.constraints.RESOURCES`."""


@dataclass(frozen=True, slots=True)
class Request:
    """What plans are solved from.

    Attributes:
        scores: predicted loss of each choice.
        limits: on resources.
        device: the target; None without one.
        workload: sentences and tokens of one inference.
        constraints: what plans must satisfy besides.
        least: what is minimized under limits on answers, a key of `LEAST`.
    """

    scores: ScoreTable
    limits: Limits
    device: Device | None
    workload: Workload
    constraints: PlanConstraints
    least: str = "bytes"

    def amount(self, solved: Solved) -> float:
        """Return the minimized amount of a plan: bytes of the file that limits count, or predicted seconds.

        Args:
            solved: the plan.
        """
        if self.least == "latency" and solved.report is not None:
            return solved.report.latency_s
        return file_bytes(solved.plan)

    def solve(self, constraints: PlanConstraints, inputs: tuple[ActivationChoice, ...]) -> Solved:
        """Solve under other constraints and choices of inputs.

        Args:
            constraints: in place of the request's.
            inputs: that a plan chooses from; none plans no inputs.

        Raises:
            InfeasibleError: no plan keeps the limits.
        """
        return solve_plans(
            self.scores, self.limits, device=self.device, workload=self.workload, constraints=constraints,
            activations=inputs,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Route:
    """One way of running in an engine.

    Attributes:
        request: what plans are solved from; its constraints name the engine.
        inputs: planned inputs that a plan chooses from; none leaves them to the engine.
        solved: the plan of least predicted loss.
        engine_rounding: predicted loss of the engine's own rounding of inputs, which is in no plan: that of 8 bits per
            token, although engines round smaller blocks; 0 if inputs are planned, not rounded, or not scored.
        notes: why another route was not taken.
    """

    request: Request
    inputs: tuple[ActivationChoice, ...]
    solved: Solved
    engine_rounding: float = 0.0
    notes: tuple[str, ...] = ()

    def smallest(self, max_loss: float) -> Solved:
        """Return the smallest or fastest plan whose predicted loss, planned inputs included, keeps a limit.

        Args:
            max_loss: the limit, in the scores' unit of loss.

        Raises:
            InfeasibleError: there is none within the other limits.
        """
        update = {"max_loss": max_loss, "least": LEAST[self.request.least]}
        return self.request.solve(self.request.constraints.model_copy(update=update), self.inputs)


def planned_widths(engine: str | None, activations: Activations | None) -> tuple[int, ...]:
    """Return the widths of inputs to score: those that the engine multiplies as integers as planned.

    Args:
        engine: its name; None for PyTorch.
        activations: what the user asked for; None leaves it open.

    Raises:
        UsageError: the engine has no planned inputs, and they were asked for.
    """
    rules = None if engine is None else rules_of(engine)
    widths = () if rules is None else tuple(dict.fromkeys((*rules.static_bits, *rules.token_bits)))
    if activations == "planned" and not widths:
        raise UsageError(f"`activations` planned: `engine` {engine} multiplies floats. Leave it out.")
    return widths if activations in (None, "planned") else ()


def find_route(request: Request, activations: Activations | None, refusal: Callable[[Allocation], str | None]) -> Route:
    """Plan the inputs if the engine supports that and some plan is feasible; otherwise leave them to the engine.

    Args:
        request: what plans are solved from; its constraints name the engine.
        activations: what the user asked for; None takes the first way that has a plan.
        refusal: returns why the plan of least predicted loss with planned inputs is unsuitable, or None.

    Raises:
        InfeasibleError: no plan meets every limit.
        UsageError: planned inputs were asked for, and not scored.
    """
    engine = request.constraints.engine
    scored = request.scores.activations
    inputs: tuple[ActivationChoice, ...] = ()
    if engine is not None and planned_widths(engine, activations):
        choices = map(activation_choice, scored.choices if scored else ())
        inputs = tuple(choice for choice in choices if rules_of(engine).runs_input(choice))
    if activations == "planned" and not inputs:
        raise UsageError("`activations` planned: `scores` has no scored inputs. Leave it out, or score them too.")
    if not inputs:
        return engine_route(request, activations)
    try:
        route = Route(request, inputs, request.solve(request.constraints, inputs))
        reason = None if activations == "planned" else refusal(route.solved.plan)
    except (InfeasibleError, UsageError) as error:
        if activations == "planned":
            raise
        reason = first_sentence(error)
    return route if reason is None else engine_route(request, activations, reason)


def engine_route(request: Request, activations: Activations | None, reason: str | None = None) -> Route:
    """Leave the inputs of products to the engine.

    Args:
        request: what plans are solved from.
        activations: what the user asked for.
        reason: why inputs are not planned; None where that was not an option.

    Raises:
        InfeasibleError: no plan meets every limit.
    """
    notes: tuple[str, ...] = ()
    if reason is not None:
        notes = (f"{request.constraints.engine} rounds inputs by itself, because with planned 8-bit inputs {reason}",)
    return Route(request, (), request.solve(request.constraints, ()), _engine_rounding(request, activations), notes)


def file_bytes(plan: Allocation) -> int:
    """Return the bytes that limits count: of the engine's file, or as packed in the quantized folder without an engine.

    Args:
        plan: the plan.
    """
    return plan.total_bytes if plan.engine is None else plan.engine.total_bytes


def first_sentence(error: Exception) -> str:
    """Return what an error says, without its advice.

    Args:
        error: whose message begins with what went wrong.
    """
    return str(error).split(". ")[0].rstrip(".")


def _engine_rounding(request: Request, activations: Activations | None) -> float:
    """Predicted loss of rounding inputs as an engine does by itself, where the scores have it; else 0."""
    engine, scored = request.constraints.engine, request.scores.activations
    if engine is None or scored is None or activations == "float32" or not rules_of(engine).integer_inputs:
        return 0.0
    column = next((j for j, name in enumerate(scored.choices) if activation_choice(name) == BY_TOKEN), None)
    return 0.0 if column is None else math.fsum(row[column] for row in scored.value)
