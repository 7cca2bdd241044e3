"""All plans on the lower convex hull of (usage, cost) for one resource.

Each group contributes the hull of its own columns. With the steps of all groups sorted by gain per unit, every prefix
is the best plan for its own usage (Sinha and Zoltners 1979), and the line between two neighbours bounds every plan
between them.
"""

from dataclasses import dataclass

import numpy as np

from ..model.program import FloatArray, IntArray, Program
from .relaxation import Relaxation, sum_rounding


@dataclass(frozen=True, slots=True, eq=False)
class Hull:
    """K + 1 plans from the least usage to the least cost, each one step from the one before.

    Attributes:
        first: int [G], columns of the first plan.
        steps: int [K], at each step the column that replaces its group's column.
        usage: float [K + 1], increasing.
        cost: float [K + 1], decreasing.
    """

    first: IntArray
    steps: IntArray
    usage: FloatArray
    cost: FloatArray

    def plan(self, program: Program, index: int) -> IntArray:
        """Return the columns of one plan, int [G].

        Args:
            program: The program of the hull.
            index: Number of the plan, 0 to K.
        """
        plan = self.first.copy()
        plan[program.group[self.steps[:index]]] = self.steps[:index]  # if a group has several steps, the last one wins
        return plan

    def relaxation(self, program: Program, limit: float) -> Relaxation:
        """Return the relaxation of a program with one row at a given capacity.

        Args:
            program: The program of the hull.
            limit: Capacity of its row; at least the usage of the first plan.
        """
        index = max(int(np.searchsorted(self.usage, limit, side="right")) - 1, 0)
        plan = self.plan(program, index)
        multiplier = 0.0
        if index < len(self.steps):
            multiplier = float((self.cost[index] - self.cost[index + 1]) / (self.usage[index + 1] - self.usage[index]))
        adjusted = program.cost + multiplier * program.rows[0]
        least = program.least(adjusted)
        magnitude = float(np.abs(program.cost[plan]).sum()) + multiplier * (float(program.rows[0][plan].sum()) + limit)
        bound = float(least.sum()) - multiplier * limit - sum_rounding(1) * magnitude
        return Relaxation(
            np.array([multiplier]), bound, adjusted - least[program.group], plans=(plan,), infeasible=False
        )


def hull_of(program: Program) -> Hull:
    """Return the convex hull of a program with one row; the capacity of the row is ignored.

    Args:
        program: With one row.
    """
    parts = np.split(np.lexsort((program.cost, program.rows[0], program.group)), program.starts[1:])
    usage, cost = program.rows[0].tolist(), program.cost.tolist()
    chains = [_chain(part.tolist(), usage, cost) for part in parts]
    before = np.array([a for chain in chains for a in chain[:-1]], dtype=np.int64)
    after = np.array([b for chain in chains for b in chain[1:]], dtype=np.int64)
    rise, fall = program.rows[0][after] - program.rows[0][before], program.cost[after] - program.cost[before]
    order = np.argsort(fall / rise, kind="stable")
    first = np.array([chain[0] for chain in chains], dtype=np.int64)
    return Hull(
        first,
        after[order],
        np.cumsum([program.rows[0][first].sum(), *rise[order]]),
        np.cumsum([program.cost[first].sum(), *fall[order]]),
    )


def _chain(columns: list[int], usage: list[float], cost: list[float]) -> list[int]:
    """Return the columns on the decreasing part of the lower hull, by usage (monotone chain, Andrew 1979)."""
    chain: list[int] = []
    for column in columns:
        if chain and cost[column] >= cost[chain[-1]]:
            continue
        while len(chain) > 1 and _above(chain[-2], chain[-1], column, usage, cost):
            chain.pop()
        chain.append(column)
    return chain


def _above(a: int, b: int, c: int, usage: list[float], cost: list[float]) -> bool:
    """Whether b lies on or above the line from a to c."""
    return (cost[b] - cost[a]) * (usage[c] - usage[a]) >= (cost[c] - cost[a]) * (usage[b] - usage[a])
