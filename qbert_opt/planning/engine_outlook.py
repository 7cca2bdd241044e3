"""Which of a device's engines can run a plan made for no engine, and the loss of a plan made for one of them."""

from __future__ import annotations

from collections.abc import Sequence

from hwmodels import format_bytes

from ..costs.engine_target import EngineTarget, engine_target
from ..costs.stored import weight_bytes
from ..engines.session import rules_of
from ..errors import InfeasibleError, NoPlanFoundError, UsageError
from ..spec.choices import Choice
from ..spec.grids import DEFAULT_BITS
from ..spec.planned import EngineOutlook, PlannedActivation
from .program import PlanningTask
from .solving import Plan, SolverOptions
from .task_solver import solve_task

QUICK = SolverOptions("lagrangian", time_limit_s=1.0)
"""How the plans for engines are solved: quickly, because one line of the report needs no proof."""


def engine_outlook(
    task: PlanningTask, plan: Plan, activations: Sequence[PlannedActivation] = ()
) -> EngineOutlook | None:
    """Return which of the device's engines can run a plan, and the loss of a plan for one under the same limits.

    Args:
        task: scores, limits and hardware.
        plan: its solution, made for no engine.
        activations: how inputs are quantized.

    Returns:
        The outlook; None if the device lists no engines, or if the plan was made for one.
    """
    if task.device is None or not task.device.engines or task.target is not None:
        return None
    engines = [name for name in task.device.engines if rules_of(name).takes(**task.profile.engine_needs)]
    if not engines:
        reason = f"none of them takes {task.profile.oddity}"
        reason += "; export-config gives the plan to other tools" if task.profile.causal else ""
        return EngineOutlook(engines=task.device.engines, runs=(), custom=(), reason=reason)
    static = [module for item in activations if item.scheme == "tensor" for module in item.modules]
    refused: dict[str, set[str]] = {}
    for name in engines:
        target = engine_target(name, static)
        if target is not None:
            refused[name] = _refused(task, plan, target)
            refused[name] |= {f"{item.bits}bit/inputs" for item in activations if target.rules.input_refusal(item.bits)}
    runs = tuple(name for name, formats in refused.items() if not formats)
    custom = sorted(set.intersection(*refused.values()))
    outlook = EngineOutlook(engines=task.device.engines, runs=runs, custom=tuple(custom))
    return outlook if runs or task.goal is not None else _with_instead(outlook, engines, task, plan, static)


def _refused(task: PlanningTask, plan: Plan, target: EngineTarget) -> set[str]:
    """Return the formats of a plan that an engine does not support."""
    formats = set()
    for item in task.items:
        choice = plan.storage[item.module].choice
        if target.refusal(item, choice) is not None:
            formats.add(f"{choice.bits}bit/{choice.grouping.partition(':')[0]}/{choice.form}")
    return formats


def _with_instead(
    outlook: EngineOutlook, engines: Sequence[str], task: PlanningTask, plan: Plan, static: Sequence[str]
) -> EngineOutlook:
    """Add the best plan for one of the engines under the same limits, or the reason why there is none."""
    losses: dict[str, float] = {}
    reasons: list[str] = []
    for name in engines:
        constraints = task.constraints.model_copy(update={"engine": name})
        try:
            other = PlanningTask(
                task.scores, task.limits, device=task.device, workload=task.workload, constraints=constraints
            )
            losses[name] = solve_task(other.with_static_inputs(static) if static else other, QUICK).solution.value
        except InfeasibleError:
            reasons.append(f"no plan for {name} meets the limits")
        except NoPlanFoundError:
            reasons.append(f"no plan for {name} was found within {QUICK.time_limit_s:g} s")
        except UsageError:
            reasons.append(_unscored(task, name))
    if not losses or plan.solution.value <= 0:
        return outlook.model_copy(update={"reason": "; ".join(reasons)})
    best = min(losses, key=losses.__getitem__)
    return outlook.model_copy(update={"instead": best, "loss_ratio": losses[best] / plan.solution.value})


def _unscored(task: PlanningTask, name: str) -> str:
    """Return which choices an engine supports that were not scored, and the least size of a plan with them."""
    target = engine_target(name)
    if target is None:
        return ""
    rules = target.rules
    least = Choice(
        min(rules.bits or DEFAULT_BITS), "rows:each", task.scores.method, rules.forms[0] if rules.forms else "offset"
    )
    size = sum(weight_bytes(m, least, task.profile.heads_of(m), target) for m in task.profile.matrices)
    return (
        f"{name} holds {rules.held}, none of which was scored for every matrix; {least.bits} bits per row take "
        f"{format_bytes(size)} there"
    )
