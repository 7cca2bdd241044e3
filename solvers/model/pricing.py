"""Price a plan from the problem's tables, the only source of value and usage in any solution."""

import math
from collections.abc import Sequence

import numpy as np

from .errors import SolverError
from .problem import ChoiceProblem

ROUNDING = 1e-12
"""Relative excess over a capacity that counts as float rounding. One byte counts as an excess up to 10¹² bytes."""


def price(problem: ChoiceProblem, choice: Sequence[int]) -> tuple[float, dict[str, float]]:
    """Return the value and the usage of one plan, each summed without rounding error (`math.fsum`).

    Args:
        problem: The tables.
        choice: Option index of each item.

    Returns:
        The value, in the unit of the table, and the usage of every resource, in its own unit.

    Raises:
        SolverError: The plan does not have exactly one known option per item.
    """
    count = len(problem.options)
    if len(choice) != len(problem.items) or not all(0 <= option < count for option in choice):
        raise SolverError(
            f"choice: needs {len(problem.items)} option indices from 0 to {count - 1}. One for each item."
        )
    chosen = np.arange(len(problem.items)), np.array(choice, dtype=np.int64)
    usage = {name: total(table[chosen].tolist()) for name, table in problem.usage.items()}
    return total(problem.value[chosen].tolist()), usage


def total(amounts: Sequence[float]) -> float:
    """Return the correctly rounded sum; infinity or NaN if the sum overflows or an entry is not finite.

    Args:
        amounts: Numbers; those of masked options may be anything.
    """
    try:
        return math.fsum(amounts)
    except (OverflowError, ValueError):
        return sum(amounts)


def capacity_with_rounding(limit: float) -> float:
    """Return the capacity with a margin for the rounding errors of float sums.

    Args:
        limit: The capacity.
    """
    return limit + ROUNDING * abs(limit) if math.isfinite(limit) else limit


def violations(problem: ChoiceProblem, choice: Sequence[int]) -> tuple[str, ...]:
    """Return the constraints that a plan breaks: resource names, "allowed", "pins", "ties", "max_families".

    Args:
        problem: The constraints.
        choice: Option index of each item.

    Returns:
        Empty if the plan keeps every row; a capacity may be exceeded by the relative error `ROUNDING`.

    Raises:
        SolverError: The plan does not have exactly one known option per item.
    """
    _, usage = price(problem, choice)
    broken = [name for name, limit in problem.capacity.items() if usage[name] > capacity_with_rounding(limit)]
    if problem.allowed is not None and not problem.allowed[range(len(choice)), choice].all():
        broken.append("allowed")
    if any(problem.options[choice[problem.items.index(item)]] != option for item, option in problem.pins.items()):
        broken.append("pins")
    if any(len({choice[index] for index in group}) > 1 for group in problem.groups()):
        broken.append("ties")
    if problem.max_families is not None and problem.families is not None:
        used = {problem.families[option] for option in choice} - {None}
        if len(used) > problem.max_families:
            broken.append("max_families")
    return tuple(broken)
