"""Make the program smaller without losing its best plan."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..model.program import NO_FAMILY, FloatArray, IntArray, Program

_BLOCK = 2_000_000  # comparisons held in memory at once


def presolve(program: Program) -> Program | None:
    """Drop columns that no best plan needs; None if no plan keeps the rows.

    A column is dropped if it does not fit even beside the least of every other group, or if another column of its group
    is no worse in cost and in every row (and adds no further family).

    Args:
        program: All columns.
    """
    fitting = drop_unfitting(program)
    if fitting is None:
        return None
    smaller = _needed_limit(fitting)
    undominated = smaller.keep(~_dominated(smaller))
    return None if undominated is None else _needed_limit(undominated)


def _needed_limit(program: Program) -> Program:
    """Remove the limit on families if no plan can exceed it."""
    distinct = len(set(program.family.tolist()) - {NO_FAMILY})
    if program.max_families is None or distinct > program.max_families:
        return program
    return replace(program, max_families=None)


def drop_unfitting(program: Program) -> Program | None:
    """Drop columns that fit into no plan, repeatedly until nothing changes; None if no plan fits.

    Args:
        program: Columns and rows.
    """
    while True:
        least = program.least(program.rows)
        room = program.rhs - least.sum(axis=1)
        if (room < 0).any():
            return None
        excess = program.rows - least[:, program.group]
        fits = (excess <= room[:, None]).all(axis=0)
        smaller = program.keep(fits)
        if smaller is None or fits.all():
            return smaller
        program = smaller


def _dense(program: Program, table: FloatArray, groups: int, options: int) -> FloatArray:
    dense = np.full((groups, options), np.inf)
    dense[program.group, program.option] = table
    return dense


def _dominated(program: Program) -> NDArray[np.bool_]:
    """Return bool [N]: whether another column of the group is as good in every respect, and better or earlier."""
    groups, options = int(program.group[-1]) + 1, int(program.option.max()) + 1
    tables = [_dense(program, table, groups, options) for table in (program.cost, program.tie, *program.rows)]
    family = np.full((groups, options), NO_FAMILY)
    family[program.group, program.option] = program.family
    counted = program.max_families is not None
    earlier = np.arange(options)[:, None] < np.arange(options)[None, :]
    dominated = np.empty((groups, options), dtype=bool)
    step = max(1, _BLOCK // options**2)
    for first in range(0, groups, step):
        block = slice(first, first + step)
        cost, tie, *rows = (table[block] for table in tables)
        beats = _precedes(cost, tie, earlier)
        for row in rows:
            beats &= row[:, :, None] <= row[:, None, :]
        if counted:
            kind = family[block]
            beats &= (kind[:, :, None] == kind[:, None, :]) | (kind[:, :, None] == NO_FAMILY)
        dominated[block] = beats.any(axis=1)
    of_columns: NDArray[np.bool_] = dominated[program.group, program.option]
    return of_columns


def _precedes(cost: FloatArray, tie: FloatArray, earlier: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return bool [g, a, b]: whether a precedes b in the order (cost, tie, position)."""
    cost_a, cost_b, tie_a, tie_b = cost[:, :, None], cost[:, None, :], tie[:, :, None], tie[:, None, :]
    before = (tie_a < tie_b) | ((tie_a == tie_b) & earlier)
    precedes: NDArray[np.bool_] = (cost_a < cost_b) | ((cost_a == cost_b) & before)
    return precedes


def cheapest(program: Program) -> IntArray:
    """Return the plan of least cost without any capacity, int [G]; equal costs are decided by `tie`, then by position.

    Args:
        program: Its costs.
    """
    order = np.lexsort((program.option, program.tie, program.cost, program.group))
    first: IntArray = order[program.starts]
    return first
