"""Why an item got its option: what the next better and the next worse one would have cost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..model.pricing import capacity_with_rounding, price
from ..model.problem import ChoiceProblem


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One item (with those tied to it) taking another option, all others as they are.

    Attributes:
        option: Its name.
        value: Change of the value of the plan.
        usage: Change of each resource.
        missing: How much of each limited resource would be missing; empty when the step fits.
    """

    option: str
    value: float
    usage: Mapping[str, float] = field(repr=False)
    missing: Mapping[str, float] = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Reason:
    """The option of one item between its neighbours in value.

    Attributes:
        item: Name.
        option: What it got.
        better: The step of smallest gain in value, or None when it has its best option. In an optimal plan it
            does not fit, unless a limit on families forbids it.
        worse: The step of smallest loss in value, or None when it has its worst.
    """

    item: str
    option: str
    better: Step | None
    worse: Step | None


def explain(problem: ChoiceProblem, choice: Sequence[int]) -> tuple[Reason, ...]:
    """Return the reason for each item of a plan, in the order of the items.

    Options that are worse in value and use at least as much of everything say nothing and are passed over.

    Args:
        problem: Rows and tables.
        choice: Option index of each item.

    Returns:
        One reason per item; changes in the units of the tables.

    Raises:
        SolverError: The plan has not one known option per item.
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
