"""Points of a frontier as rows of numbers, so that an interrupted run resumes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from solvers import ChoiceProblem, FrontierPoint, price, relative_gap


def fingerprint(problem: ChoiceProblem, rows: tuple[str, ...], points: int) -> str:
    """Return a hash of everything that determines the frontier, so that a checkpoint resumes only the same one.

    Args:
        problem: the program.
        rows: the frontier's resources.
        points: number of budgets.
    """
    made = hashlib.sha256(
        repr((rows, points, problem.items, problem.options, sorted(problem.capacity.items()))).encode()
    )
    for table in (problem.value, problem.mask(), *(problem.usage[name] for name in sorted(problem.usage))):
        made.update(np.ascontiguousarray(table).tobytes())
    return made.hexdigest()


def point_numbers(point: FrontierPoint, rows: tuple[str, ...]) -> list[float]:
    """Return a point as numbers: capacities, bound, whether it is on the convex hull, and its choices.

    Args:
        point: the point.
        rows: the frontier's resources.
    """
    return [*(point.capacity[row] for row in rows), point.lower_bound, float(point.supported), *point.choice]


def read_point(problem: ChoiceProblem, numbers: Sequence[float], rows: tuple[str, ...]) -> FrontierPoint:
    """Return the point of such numbers, priced anew.

    Args:
        problem: the program of the frontier.
        numbers: from `point_numbers`.
        rows: the frontier's resources.
    """
    capacity = dict(zip(rows, numbers, strict=False))
    bound, supported, *columns = numbers[len(rows) :]
    choice = tuple(int(column) for column in columns)
    value, usage = price(problem, choice)
    return FrontierPoint(capacity, choice, value, usage, bound, relative_gap(value, bound), bool(supported))
