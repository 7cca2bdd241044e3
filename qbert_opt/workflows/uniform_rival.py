"""What a user would take without planning: every matrix at 8 bits, run in the same way."""

from __future__ import annotations

import numpy as np

from ..costs.simulate import simulate_allocation
from ..planning.assembly import with_activations
from ..planning.program import PlanningTask
from ..planning.recipes import uniform_allocation
from ..spec.allocation import Allocation
from ..spec.limits import measured
from .route import Route

BITS = 8
OWN = ("encoder_bytes", "total_bytes")


def uniform_rival(route: Route) -> Allocation | None:
    """Return the uniform 8-bit plan of least predicted loss that the engine and the device run; None without one.

    Args:
        route: how the engine runs; its planned inputs are those of the uniform plan too.
    """
    request = route.request
    task = PlanningTask(
        request.scores, request.limits, device=request.device, workload=request.workload,
        constraints=request.constraints,
    )  # fmt: skip
    matrices = task.num_matrices
    masked = {column for row, column in task.tables.masks if row < matrices}
    legal = [
        column
        for column, c in enumerate(task.choices)
        if c.bits == BITS and c.name in request.scores.choices
        and column not in masked and bool(task.legal[:matrices, column].all())
    ]  # fmt: skip
    if not legal:
        return None
    best = min(legal, key=lambda column: float(np.sum(task.value[:matrices, column])))
    plan = uniform_allocation(request.scores, task.choices[best], device=request.device, workload=request.workload)
    inputs = route.solved.plan.activations
    return with_activations(plan, inputs) if inputs else plan


def broken_limits(rival: Allocation, route: Route) -> tuple[str, ...]:
    """Name the limits on resources that a plan breaks.

    Args:
        rival: the plan.
        route: whose limits they are, those of its own plan.
    """
    request = route.request
    report = None
    if request.device is not None:
        rate = request.limits.inferences_per_s
        report = simulate_allocation(rival, request.device, request.workload, inferences_per_s=rate)
    broken = []
    for limit in route.solved.plan.limits:
        used = getattr(rival, limit.resource) if limit.resource in OWN else measured(report, limit.resource)
        if used > limit.capacity:
            broken.append(limit.source)
    return tuple(broken)
