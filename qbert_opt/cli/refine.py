"""`solve --refine`: swaps of the plan that lower the really measured loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..planning.program import PlanningTask
from ..planning.solving import Plan
from .progress import progress

if TYPE_CHECKING:
    from solvers import Refinement


def refine(
    task: PlanningTask, plan: Plan, model: str, data: str, measurements: int, *, quiet: bool
) -> tuple[Plan, Refinement]:
    """Refine a plan on the text that its scores were made on.

    Args:
        task: what the plan answers.
        plan: the plan.
        model: folder of the model.
        data: the calibration data of the scores.
        measurements: plans really measured at most.
        quiet: no progress.
    """
    from ..data.texts import read_texts
    from ..models.loading import load_model
    from ..planning.planner import allocation_of
    from ..planning.refining import refine_plan
    from ..workflows.quantize import as_scored, plan_quantizer, plan_texts

    texts, allocation = read_texts(data), allocation_of(task, plan, answer=False)
    loaded = as_scored(load_model(model), allocation)
    quantizer = plan_quantizer(loaded, allocation, texts)
    _, scored = plan_texts(loaded, allocation, texts)
    with progress("refining", quiet=quiet) as tell:
        return refine_plan(task, plan, loaded, quantizer, scored, measurements, progress=tell)


def refined_line(found: Refinement, loss_unit: str, texts: int) -> str:
    """Say what the measurements led to."""
    end = "no untried swap was predicted to help" if found.exhausted else "the measurements ran out"
    return (
        f"refined          measured {found.start:.4g} -> {found.measured:.4g} {loss_unit} on the {texts} texts that "
        f"scored, {found.accepted} swaps kept of {len(found.history) - 1} measured ({end})"
    )
