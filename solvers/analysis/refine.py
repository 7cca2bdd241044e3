"""From predicted to measured: swaps that keep every row, accepted only when the really measured loss falls."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..model.errors import SolverError
from ..model.pricing import violations
from ..model.problem import ChoiceProblem

_MOST_STEPS = 200  # single steps of least predicted change that are also tried in pairs


@dataclass(frozen=True, slots=True)
class Refinement:
    """The result of a local search.

    Attributes:
        choice: The best plan that was measured.
        measured: Its measured loss.
        start: Measured loss of the first plan.
        history: Every measured plan with its loss, in order, starting with the first plan.
        accepted: Number of swaps that were kept.
        exhausted: True if no untried swap was predicted to help; False if the number of measurements ran out.
    """

    choice: tuple[int, ...] = field(repr=False)
    measured: float
    start: float
    history: tuple[tuple[tuple[int, ...], float], ...] = field(repr=False)
    accepted: int
    exhausted: bool


def refine(
    problem: ChoiceProblem,
    choice: Sequence[int],
    propose: Callable[[tuple[int, ...]], ArrayLike],
    measure: Callable[[tuple[int, ...]], float],
    max_measurements: int,
) -> Refinement:
    """Improve a plan by local search on the measured loss.

    In each round `propose` scores every option around the current plan. Swaps of one or two groups that keep every
    capacity, mask and link are measured in order of predicted gain, until one lowers the measured loss. Scores hold
    only near a plan, so they are computed again after each accepted swap.

    Args:
        problem: Constraints that every plan must keep; its values are not used.
        choice: The plan to start from.
        propose: Plan -> float [I, O], predicted loss of each option given the rest of the plan; only differences
            within an item matter.
        measure: Plan -> measured loss.
        max_measurements: Largest number of calls of `measure`, including that of the first plan.

    Returns:
        The plan of least measured loss, with every plan that was measured.

    Raises:
        SolverError: The plan breaks a constraint, `max_measurements` is below 1, or `propose` returns a wrong shape.
    """
    current = tuple(int(option) for option in choice)
    broken = violations(problem, current)
    if broken:
        raise SolverError(f"refine: the plan breaks {', '.join(broken)}. Start from a plan that meets every limit.")
    if max_measurements < 1:
        raise SolverError(f"refine: max_measurements is {max_measurements}. Give 1 or more.")
    start = loss = measure(current)
    history = [(current, loss)]
    tried, accepted = {current}, 0
    while True:
        improved = False
        for plan in _swaps(problem, current, _scores(problem, propose(current))):
            if plan in tried:
                continue
            if len(history) >= max_measurements:
                return Refinement(current, loss, start, tuple(history), accepted, exhausted=False)
            tried.add(plan)
            measured = measure(plan)
            history.append((plan, measured))
            if measured < loss:
                current, loss, accepted, improved = plan, measured, accepted + 1, True
                break
        if not improved:
            return Refinement(current, loss, start, tuple(history), accepted, exhausted=True)


def _scores(problem: ChoiceProblem, table: ArrayLike) -> NDArray[np.float64]:
    scores = np.asarray(table, dtype=float)
    if scores.shape != problem.value.shape:
        raise SolverError(
            f"refine: propose gave shape {list(scores.shape)}. Give {list(problem.value.shape)}, items by options."
        )
    return scores


def _swaps(problem: ChoiceProblem, choice: tuple[int, ...], scores: NDArray[np.float64]) -> Iterator[tuple[int, ...]]:
    """Yield plans that differ in one or two groups, keep every row, and are predicted to help; best first."""
    mask = problem.mask()
    steps: list[tuple[float, tuple[int, ...], int]] = []
    for members in problem.groups():
        rows, now = list(members), choice[members[0]]
        for option in np.flatnonzero(mask[rows].all(axis=0)).tolist():
            gain = float((scores[rows, option] - scores[rows, now]).sum())
            if option != now and np.isfinite(gain):
                steps.append((gain, members, option))
    steps.sort()
    single = [(gain, ((members, option),)) for gain, members, option in steps if gain < 0]
    near = steps[:_MOST_STEPS]
    pairs = [
        (a[0] + b[0], ((a[1], a[2]), (b[1], b[2])))
        for index, a in enumerate(near)
        for b in near[index + 1 :]
        if a[1] != b[1] and a[0] + b[0] < 0
    ]
    swaps: list[tuple[float, tuple[tuple[tuple[int, ...], int], ...]]] = [*single, *pairs]
    for _, moves in sorted(swaps, key=lambda swap: swap[0]):
        plan = list(choice)
        for items, changed in moves:
            for item in items:
                plan[item] = changed
        if not violations(problem, plan):
            yield tuple(plan)
