"""Baselines to compare a solution with: uniform plans, and random plans that fill the same capacities."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..model.errors import SolverError
from ..model.pricing import price, violations
from ..model.problem import ChoiceProblem
from ..model.program import IntArray, Program, lift, program_of
from ..search.incumbent import repair
from ..search.presolve import drop_unfitting

NEAR = 1e-9  # relative: far above what a running sum loses to rounding


@dataclass(frozen=True, slots=True, eq=False)
class Baseline:
    """One plan that was not optimized.

    Attributes:
        name: "uniform OPTION" or "random NUMBER".
        choice: Option index of each item.
        value: Priced from the tables.
        usage: Usage of every resource.
        broken: Constraints that the plan breaks; empty if the comparison is fair.
    """

    name: str
    choice: tuple[int, ...] = field(repr=False)
    value: float
    usage: Mapping[str, float] = field(repr=False)
    broken: tuple[str, ...]


def uniform_plans(problem: ChoiceProblem) -> tuple[Baseline, ...]:
    """Return, for each option, the plan that gives it to every item.

    If an option is masked for an item or the item is pinned, the item takes the allowed option with the nearest usage
    (of the tie-breaking resource), so that one special matrix does not rule out the whole plan.

    Args:
        problem: Tables and constraints.

    Returns:
        One plan per option that some group of items may take: feasible plans first, then by value.
    """
    mask = problem.mask()
    plans = [
        _baseline(problem, f"uniform {name}", _nearest(problem, mask, option))
        for option, name in enumerate(problem.options)
        if any(mask[list(members), option].all() for members in problem.groups())
    ]
    return tuple(sorted(plans, key=lambda plan: (bool(plan.broken), plan.value)))


def random_plans(problem: ChoiceProblem, count: int = 20, seed: int = 0) -> tuple[Baseline, ...]:
    """Return random plans that keep the capacities, and in which no item can use more without exceeding one.

    Each plan starts from random options, is repaired in a random order of preference, and is then filled by random
    steps of increasing usage. Fewer than `count` plans are returned if repair fails; under `max_families`, only plans
    that happen to meet that limit.

    Args:
        problem: Tables and constraints.
        count: Number of plans to draw.
        seed: The same seed gives the same plans.

    Returns:
        Plans that keep every row, by increasing value.

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
    used = program.rows[:, plan].sum(axis=1)  # a running sum: where it is too near to a limit to tell, all is added up
    near = NEAR * np.maximum(np.abs(program.rhs), np.abs(used))
    for column in rng.permutation(len(program.group)):
        group = program.group[column]
        before = plan[group]
        step = program.rows[:, column] - program.rows[:, before]
        if not ((step >= 0).all() and (step > 0).any()) or (used + step > program.rhs + near).any():
            continue
        plan[group] = column
        clear = program.max_families is None and (used + step < program.rhs - near).all()
        if clear or program.fits(plan):
            used = used + step
        else:
            plan[group] = before
    return plan
