"""Plans to hold an answer against: uniform ones, and random ones that fill the same capacities."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..model.errors import SolverError
from ..model.pricing import price, violations
from ..model.problem import ChoiceProblem
from ..model.program import IntArray, Program, lift, program_of
from ..search.incumbent import repair
from ..search.presolve import drop_unfitting


@dataclass(frozen=True, slots=True, eq=False)
class Baseline:
    """One plan that nobody optimised.

    Attributes:
        name: "uniform OPTION" or "random NUMBER".
        choice: Option index of each item.
        value: Priced from the tables.
        usage: The same.
        broken: Rows that the plan breaks; empty when it is a fair rival.
    """

    name: str
    choice: tuple[int, ...] = field(repr=False)
    value: float
    usage: Mapping[str, float] = field(repr=False)
    broken: tuple[str, ...]


def uniform_plans(problem: ChoiceProblem) -> tuple[Baseline, ...]:
    """Return for each option the plan that gives it to every item, best value first, plans that fit before others.

    Where an option is masked for an item or the item is pinned, the item takes the allowed option that is nearest
    in usage (of the resource that decides ties), so that one special matrix does not rule the rival out.

    Args:
        problem: Rows and tables.

    Returns:
        One plan per option that some group of items may take; `broken` names the rows that a plan breaks.
    """
    mask = problem.mask()
    plans = [
        _baseline(problem, f"uniform {name}", _nearest(problem, mask, option))
        for option, name in enumerate(problem.options)
        if any(mask[list(members), option].all() for members in problem.groups())
    ]
    return tuple(sorted(plans, key=lambda plan: (bool(plan.broken), plan.value)))


def random_plans(problem: ChoiceProblem, count: int = 20, seed: int = 0) -> tuple[Baseline, ...]:
    """Return random plans that keep the capacities and leave no item that could still use more, best first.

    Each starts from random options, is repaired in a random order of preference, and then filled by steps of
    rising usage in random order. Fewer than `count` come back when repair fails; none under `max_families`,
    unless the plan happens to keep it.

    Args:
        problem: Rows and tables.
        count: How many plans to draw.
        seed: The same seed gives the same plans.

    Returns:
        Plans that keep every row, by rising value.

    Raises:
        SolverError: `count` is negative.
    """
    if count < 0:
        raise SolverError(f"random_plans: count is {count}. Give 0 or more.")
    program = drop_unfitting(program_of(problem))
    if program is None:
        return ()
    rng = np.random.default_rng(seed)
    plans = []
    for number in range(count):
        plan = _random_plan(program, rng)
        if plan is not None and program.fits(plan):
            plans.append(_baseline(problem, f"random {number}", lift(problem, program, plan)))
    return tuple(sorted(plans, key=lambda plan: plan.value))


def _baseline(problem: ChoiceProblem, name: str, choice: tuple[int, ...]) -> Baseline:
    value, usage = price(problem, choice)
    return Baseline(name, choice, value, usage, violations(problem, choice))


def _nearest(problem: ChoiceProblem, mask: np.ndarray, option: int) -> tuple[int, ...]:
    resource = problem.tie_resource()
    table = problem.usage[resource] if resource is not None else np.zeros(problem.value.shape)
    choice: list[tuple[int, int]] = []
    for members in problem.groups():
        rows = list(members)
        allowed = np.flatnonzero(mask[rows].all(axis=0))
        target = np.where(np.isfinite(table[rows, option]), table[rows, option], 0.0).sum()
        distance = np.abs(table[rows][:, allowed].sum(axis=0) - target)
        pick = option if option in allowed else int(allowed[distance.argmin()])
        choice.extend((item, pick) for item in members)
    return tuple(pick for _, pick in sorted(choice))


def _random_plan(program: Program, rng: np.random.Generator) -> IntArray | None:
    preference = rng.random(len(program.group))
    order = np.lexsort((preference, program.group))
    plan = repair(program, preference, order[program.starts].astype(np.int64))
    if plan is None:
        return None
    for column in rng.permutation(len(program.group)):
        group = program.group[column]
        step = program.rows[:, column] - program.rows[:, plan[group]]
        if (step >= 0).all() and (step > 0).any():
            candidate = plan.copy()
            candidate[group] = column
            plan = candidate if program.fits(candidate) else plan
    return plan
