"""Why an item has its option: what the next better and the next worse option would cost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..model.pricing import capacity_with_rounding, price
from ..model.problem import ChoiceProblem


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A change of one item (with those tied to it) to another option, with all other items unchanged.

    Attributes:
        option: Name of the other option.
        value: Change of the plan's value.
        usage: Change of the usage of each resource.
        missing: How much of each limited resource would be missing; empty if the step fits.
    """

    option: str
    value: float
    usage: Mapping[str, float] = field(repr=False)
    missing: Mapping[str, float] = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Reason:
    """The option of one item, and the next better and next worse options.

    Attributes:
        item: Name of the item.
        option: Name of its option.
        better: The step with the smallest gain in value; None if the item has its best option. In an optimal plan this
            step exceeds a capacity, or a limit on families forbids it.
        worse: The step with the smallest loss in value; None if the item has its worst option.
    """

    item: str
    option: str
    better: Step | None
    worse: Step | None


def explain(problem: ChoiceProblem, choice: Sequence[int]) -> tuple[Reason, ...]:
    """Explain the option of each item of a plan.

    Options that are worse in value and use at least as much of every resource are skipped.

    Args:
        problem: Tables and constraints.
        choice: Option index of each item.

    Returns:
        One reason per item, in the order of the items; changes in the units of the tables.

    Raises:
        SolverError: The plan does not have exactly one known option per item.
    """
    _, usage = price(problem, choice)
    slack = {
        name: capacity_with_rounding(limit) - usage[name]
        for name, limit in problem.capacity.items()
        if limit != math.inf
    }
    mask = problem.mask()
    reasons: dict[int, Reason] = {}
    for members in problem.groups():
        rows, now = list(members), choice[members[0]]
        steps = [
            _step(problem, rows, now, option, slack)
            for option in np.flatnonzero(mask[rows].all(axis=0)).tolist()
            if option != now
        ]
        better = [step for step in steps if step.value < 0]
        worse = [step for step in steps if step.value >= 0 and any(more < 0 for more in step.usage.values())]
        for item in members:
            reasons[item] = Reason(
                problem.items[item],
                problem.options[now],
                max(better, key=lambda step: step.value, default=None),
                min(worse, key=lambda step: step.value, default=None),
            )
    return tuple(reasons[item] for item in range(len(problem.items)))


def _step(problem: ChoiceProblem, rows: list[int], now: int, option: int, slack: Mapping[str, float]) -> Step:
    value = float((problem.value[rows, option] - problem.value[rows, now]).sum())
    usage = {name: float((table[rows, option] - table[rows, now]).sum()) for name, table in problem.usage.items()}
    missing = {name: usage[name] - left for name, left in slack.items() if usage[name] > left}
    return Step(problem.options[option], value, usage, missing)
