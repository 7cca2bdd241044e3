"""Solve again with the formats of another tool, within a plan's bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..configs.tool import ConfigTool
from ..costs.workload import Workload
from ..errors import InfeasibleError, UsageError
from ..planning.planner import allocation_of
from ..planning.program import PlanningTask
from ..planning.solving import SolverOptions
from ..planning.task_solver import solve_task
from ..spec.allocation import Allocation
from ..spec.choices import Choice
from ..spec.limits import Limits
from ..spec.plan_scores import check_scores
from ..spec.planned import PlannedMatrix
from ..spec.scores import ScoreTable

if TYPE_CHECKING:
    from hwmodels import Device


def refit(
    plan: Allocation, tool: ConfigTool, scores: ScoreTable, device: Device | None, workload: Workload
) -> Allocation:
    """Solve again with only the scored choices that a tool can run, within the plan's bytes.

    Scored embedding tables are searched too, since a tool's config does not cover them.

    Args:
        plan: the plan, whose bytes are the limits.
        tool: a module of `configs/tools`.
        scores: the table that the plan was solved from.
        device: target hardware, or None.
        workload: sentences and tokens of one inference.

    Raises:
        InfeasibleError: no plan fits into the bytes.
        InputFileError: the scores are for another model, or not those that the plan was solved from.
        UsageError: none of the tool's choices was scored.
    """
    check_scores(plan, scores)
    limits = Limits(encoder_bytes=plan.encoder_bytes, total_bytes=plan.total_bytes)
    task = PlanningTask(scores, limits, device=device, workload=workload)
    matrices = slice(task.num_matrices)
    task.legal[matrices] &= np.array([[_runs(tool, matrix, c) for c in task.choices] for matrix in plan.matrices])
    if not task.legal[matrices].any(axis=1).all():
        raise UsageError(f"{tool.TITLE}: none of its formats was scored. Scored: {', '.join(scores.choices)}.")
    try:
        return allocation_of(task, solve_task(task, SolverOptions()))
    except InfeasibleError as error:
        sizes = ("encoder_bytes", "total_bytes")
        costs = {name: np.where(task.legal, task.tables.usage[name][:, : len(task.choices)], np.inf) for name in sizes}
        encoder, total = (int(costs[name].min(axis=1).sum() + task.tables.fixed[name]) for name in sizes)
        if encoder <= plan.encoder_bytes and total <= plan.total_bytes:
            raise InfeasibleError(f"{tool.TITLE}: no plan in its formats: {error}") from None
        raise InfeasibleError(
            f"{tool.TITLE}: its formats take at least {encoder:,} bytes for the encoder and {total:,} in all; the plan "
            f"takes {plan.encoder_bytes:,} and {plan.total_bytes:,}. Solve for a plan with a larger budget, or convert "
            "without `refit`."
        ) from None


def _runs(tool: ConfigTool, matrix: PlannedMatrix, choice: Choice) -> bool:
    """Return whether a tool supports these bits and this grouping for a matrix; the form is not compared."""
    axis = choice.grouping.partition(":")[0]
    with_choice = matrix.model_copy(update={"axis": axis, "grouping": choice.grouping})
    return any((offer.bits, offer.grouping) == (choice.bits, choice.grouping) for offer in tool.offers(with_choice))
