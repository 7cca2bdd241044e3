"""Lower bounds: the Lagrangian dual of the capacity rows, maximized by cutting planes.

    L(λ) = Σ_g min_j (c_j + λ·a_j) − λ·b,  λ ≥ 0           (Fisher 1981, eq. 2)

L(λ) bounds every plan from below for *any* λ, so the bound does not depend on an engine's tolerance; its maximum is the
value of the linear relaxation. Each evaluation is one pass over the columns and yields a plan, and so a cut (Kelley
1960). The master program has one variable per row, so ten to forty rounds are enough, for 70 or for 10,000 items.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..model.program import FloatArray, IntArray, Program
from .master import master

_MOST_ROUNDS = 300
_ENOUGH = 1e-10  # relative distance of bound and master value at which to stop

Oracle = Callable[[FloatArray], IntArray]
"""Adjusted costs [N] -> the plan [G] of least adjusted cost."""


@dataclass(frozen=True, slots=True, eq=False)
class Relaxation:
    """The best bound, and the reduced cost of each column.

    Attributes:
        multipliers: float [R], ≥ 0, cost per unit of each row.
        bound: No plan costs less.
        reduced: float [N], ≥ 0. A plan costs at least `bound` plus the sum of its columns' reduced costs.
        plans: Plans met during the search, that of the best bound first; each is optimal for some multipliers.
        infeasible: Whether the bound exceeds the cost of every plan, so that no plan is feasible.
    """

    multipliers: FloatArray
    bound: float
    reduced: FloatArray
    plans: tuple[IntArray, ...]
    infeasible: bool


def sum_rounding(rows: int) -> float:
    """Return twice the relative rounding error of a pairwise sum of priced costs (Higham 2002, section 4.2).

    Twice, because the reduced cost of a column has the same error and is compared with a bound that must be safe.

    Args:
        rows: Number of capacity rows in each priced cost.
    """
    return 2 * (40 + 2 * rows) * 2.0**-53


def cheapest_columns(program: Program, cost: FloatArray) -> IntArray:
    """Return the first column of least cost of each group, int [G].

    Args:
        program: Its groups.
        cost: Cost of each column, float [N].
    """
    starts = program.starts
    least = np.minimum.reduceat(cost, starts)
    at_least = np.flatnonzero(cost == least[program.group])
    first: IntArray = at_least[np.searchsorted(program.group[at_least], np.arange(len(starts)))]
    return first


def relax(program: Program, oracle: Oracle | None = None, known: Sequence[IntArray] = ()) -> Relaxation:
    """Maximize the Lagrangian dual.

    Args:
        program: Columns and rows.
        oracle: Finds the plan of least adjusted cost; None takes the cheapest column of each group.
        known: Plans of an earlier relaxation of the same columns, under any capacities, from which to start.
    """
    least_plan = oracle or (lambda cost: cheapest_columns(program, cost))
    least = program.least(program.rows)
    room = program.rhs - least.sum(axis=1)
    size = np.maximum(np.maximum(np.abs(room), (program.rows - least[:, program.group]).max(axis=1)), 1e-300)
    rows, right = (program.rows - least[:, program.group]) / size[:, None], room / size
    base = float(program.least(program.cost).sum())
    cost = program.cost - program.least(program.cost)[program.group]
    span = max(float(cost.max()), 1e-300)
    worst = -float(program.least(-cost).sum())

    plans: list[IntArray] = []
    cuts = master(len(right))

    def add(plan: IntArray) -> None:
        plans.append(plan)
        cuts.add(float(cost[plan].sum()) / span, rows[:, plan].sum(axis=1) - right)

    for plan in known:
        add(np.asarray(plan))
    noise = sum_rounding(len(right))
    best_bound, best_at, best_plan = -np.inf, np.zeros(len(right)), cheapest_columns(program, cost)
    at, box = np.zeros(len(right)), np.full(len(right), 100 * span)
    for _ in range(_MOST_ROUNDS):
        adjusted = cost + at @ rows
        plan = least_plan(adjusted)
        total, limit = float(adjusted[plan].sum()), at @ right
        bound = float(total - limit - noise * (total + at @ np.abs(right)))
        if bound > best_bound:
            best_bound, best_at, best_plan = bound, at, plan
        add(plan)
        if not len(right) or best_bound > worst * (1 + 1e-12):  # no rows, or no plan at all
            break
        at, ceiling = cuts.maximum(box / span)
        at, ceiling = at * span, ceiling * span
        stuck = (at >= box * (1 - 1e-9)) & (box < 1e9 * span)
        box = np.where(stuck, box * 1000, box)
        if not stuck.any() and ceiling - best_bound <= _ENOUGH * max(abs(ceiling), 1e-300):
            break
    adjusted = cost + best_at @ rows
    return Relaxation(
        multipliers=best_at / size,
        bound=base + best_bound,
        reduced=adjusted - program.least(adjusted)[program.group],
        plans=(best_plan, *reversed(plans)),
        infeasible=best_bound > worst * (1 + 1e-12),
    )
