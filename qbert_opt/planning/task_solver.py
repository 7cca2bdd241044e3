"""Solve a planning task: its best plan, or several diverse plans.

Bits come first: the least predicted loss under every limit. Then, with the bits fixed, residency: which matrices stay
in the scratchpad for the least energy. The two are combined into one program only if residency affects which bits are
possible or best: if DRAM traffic is limited (`traffic_limit`), or latency, energy or traffic is minimized.
"""

from __future__ import annotations

import math
from dataclasses import replace
from warnings import warn

import numpy as np

from solvers import ChoiceProblem, ChoiceSolution, binding_rows, differing, price, top_k

from ..errors import InfeasibleError, QbertOptWarning, UsageError
from .cross_fit import cross_fit, judged_program
from .program import LOSS, RESIDENT_GOALS, PlanningTask
from .scheduled_limits import broken, enforced
from .solving import Plan, SolverOptions, attempt, checked, placed, proven_against, search_ended, why_infeasible
from .traffic_limit import search_within

GOAL_TOLERANCE = {"latency_bound_s": 1e-3, "token_bound_s": 1e-3, "energy_bound_j": 1e-3}
"""Relative slack on the least latency or energy, spent on a lower loss. It is far below the accuracy of either model.

The other goals are sums of whole numbers; among plans with equal sums the solver takes the one with the least loss.
"""


def solve_task(task: PlanningTask, options: SolverOptions) -> Plan:
    """Solve the program, decide residency, simulate, and enforce the limits on latency and energy.

    Args:
        task: scores, limits and hardware.
        options: solver, time limit, gap.

    Raises:
        InfeasibleError: no plan meets every limit.
        UsageError: the solver does not take this program, or ran out of time before finding any plan.
    """
    problem = task.problem(task.capacity(), joint=task.joint)
    # Bits and residency under a limit on loss are the hardest programs: spend a fixed effort and report the gap.
    quick = options.solver == "auto" and task.goal in RESIDENT_GOALS
    if quick:
        solution = attempt(problem, replace(options, solver="lagrangian"))
    else:
        solution = checked(search_within(problem, len(task.choices), options), options)
    if solution.choice is None:
        raise InfeasibleError(why_infeasible(task, problem, solution))
    if task.goal in GOAL_TOLERANCE:
        solution = _least_loss(task, problem, solution, replace(options, solver="lagrangian") if quick else options)
    plan = Plan(problem, solution, *placed(task, solution.choice or ()))
    return enforced(task, plan, options) if broken(task, plan) else plan


def _least_loss(
    task: PlanningTask, problem: ChoiceProblem, solution: ChoiceSolution, options: SolverOptions
) -> ChoiceSolution:
    """Return the plan of least loss among those within `GOAL_TOLERANCE` of the least latency or energy.

    Args:
        task: a task that minimizes latency or energy.
        problem: its program.
        solution: the program's solution; its lower bound remains the proof.
        options: solver, time limit, gap.
    """
    goal = str(task.goal)
    room = GOAL_TOLERANCE[goal] * (solution.value + task.tables.fixed[goal])
    capacity = {**problem.capacity, goal: solution.value + room}
    second = replace(problem, value=np.where(problem.mask(), problem.usage[LOSS], np.nan), capacity=capacity)
    lowest = attempt(replace(second, tie_break=goal), options)
    if lowest.choice is None:
        return solution
    value, usage = price(problem, lowest.choice)
    answer = replace(
        solution, choice=lowest.choice, value=value, usage=usage, binding=binding_rows(problem, lowest.choice)
    )
    return proven_against(answer, solution.lower_bound)


def top_plans(
    task: PlanningTask,
    best: Plan,
    options: SolverOptions,
    count: int,
    within: float = math.inf,
    apart: int | None = None,
) -> list[Plan]:
    """Return up to `count` diverse plans, best first.

    Each is the best plan that differs from all earlier ones in at least `apart` matrices or tables. Its predicted loss
    is cross-fitted like that of the best: each part of the text evaluates the best plan that the rest would have chosen
    among those that differ as much. Plans that violate a limit that the program cannot express are left out.

    Args:
        task: scores, limits and hardware.
        best: its solution, from `solve_task`.
        options: solver, time limit and gap of each plan.
        count: largest number of plans.
        within: largest relative distance from the best plan's objective.
        apart: least number of matrices and tables in which two plans differ. None takes a tenth of them, because
            plans that differ in only two measure the same.

    Raises:
        UsageError: `apart` is more than the number of matrices and tables.

    Warns:
        QbertOptWarning: there are fewer plans than `count`, or the search for the next one ended too early.
    """
    apart = max(1, len(task.items) // 10) if apart is None else apart
    if apart > len(task.items):
        raise UsageError(f"`apart` {apart}: there are {len(task.items)} matrices and scored tables.")
    rivals = top_k(
        best.problem, count, within, distance=apart, solver=options.solver, time_limit_s=options.time_limit_s,
        relative_gap=options.relative_gap,
    )  # fmt: skip
    plans, own = [best], best.problem
    for rival in rivals:
        if rival.choice is None or rival.choice == best.solution.choice:
            continue
        own = differing(own, plans[-1].solution.choice or (), apart, len(plans))
        # a proof under lowered caps does not hold under the limits themselves
        proven = proven_against(rival, best.solution.lower_bound) if best.tightened else rival
        plan = Plan(best.problem, proven, *placed(task, rival.choice))
        plans.append(replace(plan, judged=cross_fit(task, judged_program(task, replace(plan, problem=own)))))
    kept = [plan for plan in plans[1:] if not broken(task, plan) and _keeps_loss(task, plan)]
    if rivals and rivals[-1].choice is None:
        fewer = f"{search_ended(options)} before it found plan {len(rivals)}."
        warn(QbertOptWarning(f"`top_k` {count}: {fewer}"), stacklevel=2)
    elif len(kept) + 1 < count and within == math.inf:
        fewer = f"{len(kept) + 1} plans: no more that meet the limits differ so much."
        warn(QbertOptWarning(f"`top_k` {count}: {fewer}"), stacklevel=2)
    return [best, *kept][:count]


def _keeps_loss(task: PlanningTask, plan: Plan) -> bool:
    """Return whether a plan meets the limit on the predicted loss, which the program cannot bound."""
    limit = task.constraints.max_loss
    return limit is None or plan.judged is None or plan.judged.loss <= limit
