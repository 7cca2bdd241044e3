"""What a user would choose without planning: every matrix at 8 bits, run in the same way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..costs.phases import simulate_plan
from ..costs.stored import Storage, table_choices
from ..planning.assembly import with_activations
from ..planning.plan_bytes import engine_file
from ..planning.program import PlanningTask
from ..planning.recipes import uniform_allocation
from ..spec.activations import input_bits
from ..spec.allocation import Allocation
from ..spec.quantities import measured
from .route import Route

BITS = 8


@dataclass(frozen=True, slots=True)
class UniformRival:
    """The uniform 8-bit plan.

    Attributes:
        plan: the plan, with the planned inputs of its rival.
        latency_s: predicted on the device; None without one.
        broken: who set the limits on resources that it breaks.
    """

    plan: Allocation
    latency_s: float | None
    broken: tuple[str, ...]


def uniform_rival(route: Route) -> UniformRival | None:
    """Return the uniform 8-bit plan of least predicted loss that the engine and device can run; None if there is none.

    Args:
        route: how the engine runs; its planned inputs and limits are those of the uniform plan too.
    """
    request, inputs = route.request, route.solved.plan.activations
    task = PlanningTask(
        request.scores, request.limits, device=request.device, workload=request.workload,
        constraints=request.constraints,
    )  # fmt: skip
    if inputs:
        task = task.with_static_inputs(input_bits(inputs)).reading(input_bits(inputs))
    matrices = slice(0, task.num_matrices)
    masked = {column for row, column in task.tables.masks if row < task.num_matrices}
    legal = [
        column
        for column, c in enumerate(task.choices)
        if c.bits == BITS and column not in masked and bool(task.legal[matrices, column].all())
    ]
    if not legal:
        return None
    chosen = task.choices[min(legal, key=lambda column: float(np.sum(task.value[matrices, column])))]
    tables = {} if task.target is None else table_choices(task.profile, task.target)
    plan = uniform_allocation(request.scores, chosen, tables=tables)
    if inputs:
        plan = with_activations(plan, inputs)
    if task.target is not None:
        storage = {m.module: Storage(chosen) for m in task.profile.matrices}
        storage |= {module: Storage(stored) for module, stored in tables.items()}
        plan = plan.model_copy(update={"engine": engine_file(task.profile, storage, task.target)})
    report, token = None, None
    if request.device is not None:
        rate = request.limits.inferences_per_s
        report, token = simulate_plan(plan, request.device, request.workload, inferences_per_s=rate)
    file = plan if plan.engine is None else plan.engine
    own = {
        "encoder_bytes": file.encoder_bytes,
        "total_bytes": file.total_bytes,
        "predicted_loss": plan.predicted_loss,
    }
    broken = tuple(
        limit.source
        for limit in route.solved.plan.limits
        if limit.resource != "sum_of_scores"  # the program's own bound, which stands for that on the predicted loss
        and (own[limit.resource] if limit.resource in own else measured(report, limit.resource, token)) > limit.capacity
    )
    return UniformRival(plan, None if report is None else report.latency_s, broken)
