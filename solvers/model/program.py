"""The reduced problem that every method works on: columns (group, option) in flat arrays, sorted by group.

Tied items are merged into one group; masked options and resources without a limit are removed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .pricing import capacity_with_rounding
from .problem import ChoiceProblem

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
NO_FAMILY = -1


@dataclass(frozen=True, eq=False)  # without slots, so that `starts` is kept
class Program:
    """Minimize the cost of one column per group subject to rows @ x ≤ rhs; N columns, R rows, G groups.

    Attributes:
        group: int [N], ascending, 0 to G − 1, every group at least once.
        option: int [N].
        cost: float [N].
        rows: float [R, N].
        rhs: float [R], with a margin for float rounding.
        tie: float [N]; among plans of equal cost the one with the least sum wins.
        family: int [N], `NO_FAMILY` for a column that does not count.
        max_families: None for no limit.
    """

    group: IntArray
    option: IntArray
    cost: FloatArray
    rows: FloatArray
    rhs: FloatArray
    tie: FloatArray
    family: IntArray
    max_families: int | None

    @cached_property
    def starts(self) -> IntArray:
        """The first column of each group, int [G]."""
        return np.concatenate([[0], np.flatnonzero(self.group[1:] != self.group[:-1]) + 1])[: len(self.group)]

    def __repr__(self) -> str:
        """Return one line."""
        groups = int(self.group[-1]) + 1 if len(self.group) else 0
        return f"Program(columns={len(self.cost)}, groups={groups}, rows={len(self.rhs)})"

    def least(self, table: FloatArray) -> FloatArray:
        """Return the least entry of each group: [..., N] -> [..., G].

        Args:
            table: float [N] or [R, N].
        """
        return np.minimum.reduceat(table, self.starts, axis=-1)

    def magnitude(self, cost: float = math.inf) -> float:
        """Return Σ_g max_j |c_j| over the columns that a plan of at most this cost can take.

        Rounding errors of sums are proportional to it. A column that no such plan can afford does not count, so that
        one absurd score does not blur the others.

        Args:
            cost: Largest cost that matters; infinity for all.
        """
        size = np.abs(self.cost)
        if cost < math.inf:
            least = self.least(self.cost)
            room = (cost - float(least.sum())) * (1 + 1e-9) + 1e-13 * float(np.abs(least).sum())
            size = np.where(self.cost - least[self.group] <= room, size, 0.0)
        return float(np.maximum.reduceat(size, self.starts).sum())

    def rounding(self, cost: float = math.inf) -> float:
        """Return a bound on the rounding error of a float sum over a plan of at most this cost, in any order.

        Args:
            cost: Largest cost that matters; infinity for all.
        """
        return (len(self.starts) + 32) * 2.0**-53 * self.magnitude(cost)

    def keep(self, mask: NDArray[np.bool_]) -> "Program | None":
        """Return the program with only these columns, or None when a group has none left.

        Args:
            mask: bool [N].
        """
        if mask.all():
            return self
        if not np.logical_or.reduceat(mask, self.starts).all():
            return None
        return self.take(mask)

    def take(self, mask: NDArray[np.bool_]) -> "Program":
        """Return the program with only these columns, at least one of each group.

        Args:
            mask: bool [N].
        """
        return replace(
            self,
            group=self.group[mask],
            option=self.option[mask],
            cost=self.cost[mask],
            rows=self.rows[:, mask],
            tie=self.tie[mask],
            family=self.family[mask],
        )

    def fits(self, columns: IntArray) -> bool:
        """Whether a plan (one column of each group) keeps every row and the limit on families.

        Args:
            columns: int [G], one column of each group.
        """
        if (self.rows[:, columns].sum(axis=1) > self.rhs).any():
            return False
        if self.max_families is None:
            return True
        return len(set(self.family[columns].tolist()) - {NO_FAMILY}) <= self.max_families


def program_of(problem: ChoiceProblem) -> Program:
    """Merge tied items, and drop masked options and unlimited resources.

    Args:
        problem: What to choose.
    """
    groups = problem.groups()
    order = np.array([index for members in groups for index in members])
    starts = np.cumsum([0, *(len(members) for members in groups[:-1])])
    allowed = np.logical_and.reduceat(problem.mask()[order], starts, axis=0)
    group, option = np.nonzero(allowed)

    def columns(table: FloatArray) -> FloatArray:
        with np.errstate(invalid="ignore", over="ignore"):  # masked entries may be anything
            joined: FloatArray = np.add.reduceat(table[order], starts, axis=0)
        for index, members in enumerate(groups):
            if len(members) > 1:  # large values of either sign must not swallow a small one
                options = option[group == index]
                joined[index, options] = [math.fsum(column) for column in table[list(members)][:, options].T.tolist()]
        kept: FloatArray = joined[group, option]
        return kept

    limited = [name for name, limit in problem.capacity.items() if limit != np.inf]
    rows = np.array([columns(problem.usage[name]) for name in limited]).reshape(len(limited), len(group))
    tie = problem.tie_resource()
    return Program(
        group=group,
        option=option,
        cost=columns(problem.value),
        rows=rows,
        rhs=np.array([capacity_with_rounding(problem.capacity[name]) for name in limited]),
        tie=np.zeros(len(group)) if tie is None else columns(problem.usage[tie]),
        family=_families(problem)[option],
        max_families=problem.max_families,
    )


def _families(problem: ChoiceProblem) -> IntArray:
    if problem.families is None:
        return np.full(len(problem.options), NO_FAMILY)
    names = sorted({name for name in problem.families if name is not None})
    return np.array([NO_FAMILY if name is None else names.index(name) for name in problem.families])


def columns_in(program: Program, part: Program, columns: IntArray) -> IntArray:
    """Return the columns of `program` that have group and option of these columns of a part of it.

    Args:
        program: The larger program.
        part: A program of some of its columns.
        columns: Positions in `part`.
    """
    width = int(program.option.max()) + 1
    keys = part.group[columns] * width + part.option[columns]
    return np.searchsorted(program.group * width + program.option, keys).astype(np.int64)


def lift(problem: ChoiceProblem, program: Program, columns: Sequence[int] | IntArray) -> tuple[int, ...]:
    """Return the option index of each item for a plan of the reduced program (one column per group).

    Args:
        problem: The problem of the program.
        program: Reduced from it.
        columns: int [G], one column of each group.
    """
    choice = [0] * len(problem.items)
    for members, column in zip(problem.groups(), columns, strict=True):
        for item in members:
            choice[item] = int(program.option[column])
    return tuple(choice)
