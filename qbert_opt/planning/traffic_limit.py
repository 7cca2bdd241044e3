"""Bits and residency under a limit on DRAM traffic: bits first, then a placement that meets the limit.

A weight is either streamed and counts as traffic, or resident and takes room in the scratchpad. A plan within both
limits is also within their sum (a surrogate constraint, Glover 1975). In the sum the two options of a choice cost the
same, or nearly so, and the bits can be solved almost as fast as without a scratchpad. If the best bits under the sum
can be placed within both limits, no plan is better. If not, bits and residency are solved together.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from warnings import warn

import numpy as np

from solvers import ChoiceProblem, ChoiceSolution, FrontierPoint, binding_rows, price

from ..errors import InfeasibleError, QbertOptWarning
from .solving import SolverOptions, proven_against, search

TRAFFIC, ROOM = "dram_bytes", "scratchpad_bytes"
PLACING_S = 1.0  # whether the last kilobytes can be placed at all may take hours to decide
SUM = "dram_and_scratchpad_bytes"  # row of the relaxation


def search_within(problem: ChoiceProblem, num_choices: int, options: SolverOptions) -> ChoiceSolution:
    """Solve a program; bits first, if it limits traffic and its objective does not depend on residency.

    Args:
        problem: its options are every choice streamed and, if residency is decided too, every choice resident.
        num_choices: number of choices.
        options: solver, time limit, gap.

    Returns:
        The solution; if no plan was found, its status says whether there is none.

    Raises:
        UsageError: the solver does not take this program.
    """
    start = time.perf_counter()
    streamed, resident = problem.value[:, :num_choices], problem.value[:, num_choices:]
    limited = {TRAFFIC, ROOM} <= problem.capacity.keys() and streamed.shape == resident.shape
    separable = limited and np.array_equal(streamed, resident, equal_nan=True)
    found = bits_first(problem, num_choices, options) if separable else None
    return search(problem, options.remaining(start)) if found is None else found


def bits_first(problem: ChoiceProblem, num_choices: int, options: SolverOptions) -> ChoiceSolution | None:
    """Solve the bits under the sum of both limits, and place them within each.

    Args:
        problem: its options are every choice streamed, then every choice resident.
        num_choices: number of choices.
        options: solver, time limit, gap.

    Returns:
        The solution with its proof; None if there are no such bits, or they cannot be placed.

    Raises:
        UsageError: the solver does not take this program.
    """
    start = time.perf_counter()
    relaxed = search(_relaxed(problem), options)
    if relaxed.choice is None:
        return None
    placed = placement(problem, relaxed.choice, num_choices, options.remaining(start))
    if placed is None:
        return None
    value, usage = price(problem, placed)
    answer = replace(relaxed, choice=placed, value=value, usage=usage, binding=binding_rows(problem, placed))
    return proven_against(answer, relaxed.lower_bound)


def placement(
    problem: ChoiceProblem, chosen: Sequence[int], num_choices: int, options: SolverOptions
) -> tuple[int, ...] | None:
    """Place the weights of a plan within the limits on traffic and room.

    Args:
        problem: its options are every choice streamed, then every choice resident.
        chosen: option of each item; only its choice is used.
        num_choices: number of choices.
        options: solver, time limit, gap.

    Returns:
        The option of each item; None if no placement was found quickly.
    """
    same = np.arange(len(problem.options)) % num_choices == np.array(chosen)[:, None] % num_choices
    fixed = replace(problem, allowed=problem.mask() & same)
    traffic = np.where(fixed.mask(), problem.usage[TRAFFIC], np.nan)
    capacity = {name: limit for name, limit in problem.capacity.items() if name != TRAFFIC}
    least = search(replace(fixed, value=traffic, capacity=capacity), replace(options, solver="lagrangian"))
    if least.choice is not None and least.usage[TRAFFIC] <= problem.capacity[TRAFFIC]:
        return least.choice
    left_s = PLACING_S if options.time_limit_s is None else min(PLACING_S, options.time_limit_s)
    return search(fixed, replace(options, time_limit_s=left_s)).choice


def with_room(streamed: ChoiceProblem, both: ChoiceProblem) -> ChoiceProblem:
    """Relax the limit on traffic of a program without residency to the sum of traffic and room.

    Args:
        streamed: offers every choice streamed.
        both: the same program, which offers every choice streamed and resident.

    Returns:
        The program in which a choice uses the least sum of traffic and room: every plan of `both` keeps its limit.
    """
    needed = np.where(both.mask(), both.usage[TRAFFIC] + both.usage[ROOM], np.inf)
    least = np.minimum(*np.split(needed, 2, axis=1))
    return replace(
        streamed,
        usage={**streamed.usage, TRAFFIC: np.where(np.isfinite(least), least, 0.0)},
        capacity={**streamed.capacity, TRAFFIC: both.capacity[TRAFFIC] + both.capacity[ROOM]},
    )


def placed_points(points: Sequence[FrontierPoint], both: ChoiceProblem) -> tuple[FrontierPoint, ...]:
    """Return the points whose weights can be placed within the limit on traffic, with the traffic that is left.

    Args:
        points: plans within the sum of traffic and room.
        both: the program that decides residency too.

    Raises:
        InfeasibleError: none of them can be placed.

    Warns:
        QbertOptWarning: some cannot.
    """
    num_choices = len(both.options) // 2
    kept = []
    for point in points:
        options = placement(both, point.choice, num_choices, SolverOptions())
        if options is not None:
            traffic = price(both, options)[1][TRAFFIC]
            kept.append(replace(point, usage={**point.usage, TRAFFIC: traffic}))
    if not kept:
        raise InfeasibleError(
            f"none of {len(points)} plans can be placed on chip within the limit on traffic. Raise it."
        )
    if lost := len(points) - len(kept):
        left_out = f"{lost} of {len(points)} plans are left out: their weights cannot be placed within it."
        warn(QbertOptWarning(f"limit on traffic: {left_out}"), stacklevel=3)
    return tuple(kept)


def _relaxed(problem: ChoiceProblem) -> ChoiceProblem:
    """Return the program with the sum of the limits on traffic and room instead of both."""
    capacity = {name: limit for name, limit in problem.capacity.items() if name not in (TRAFFIC, ROOM)}
    return replace(
        problem,
        usage={**problem.usage, SUM: problem.usage[TRAFFIC] + problem.usage[ROOM]},
        capacity={**capacity, SUM: problem.capacity[TRAFFIC] + problem.capacity[ROOM]},
    )
