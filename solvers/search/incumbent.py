"""Good plans quickly: repair a relaxed plan, fill the remaining capacity, and swap in pairs."""

import numpy as np

from ..model.program import FloatArray, IntArray, Program
from .relaxation import Relaxation

_PAIR_COLUMNS = 300  # number of columns, by least reduced cost, that are tried in pairs
_MOST_STARTS = 4
_MOST_STEPS = 100_000


def incumbent(program: Program, relaxation: Relaxation) -> IntArray | None:
    """Return the best plan that repair, fill and swaps make of the relaxation's plans; None if none can be repaired.

    Args:
        program: Columns and rows.
        relaxation: Its relaxation.
    """
    best: IntArray | None = None
    for start in relaxation.plans[:_MOST_STARTS]:
        plan = polish(program, relaxation, start)
        if plan is not None and (best is None or program.cost[plan].sum() < program.cost[best].sum()):
            best = plan
    return best


def polish(program: Program, relaxation: Relaxation, plan: IntArray) -> IntArray | None:
    """Repair, fill and pair-swap one plan; None when it cannot be made to fit.

    Args:
        program: Columns and rows.
        relaxation: Its relaxation.
        plan: int [G]; need not fit.
    """
    repaired = repair(program, relaxation.reduced, plan)
    if repaired is None:
        return None
    return swap_pairs(program, relaxation.reduced, fill(program, repaired))


def repair(program: Program, reduced: FloatArray, plan: IntArray) -> IntArray | None:
    """Make a plan fit: repeatedly take the step with the least reduced cost per violation removed; None if stuck.

    Args:
        program: Columns and rows.
        reduced: Reduced cost of each column, float [N].
        plan: int [G]; need not fit.
    """
    plan = plan.copy()
    unit = 1 / np.maximum(np.abs(program.rhs), 1e-300)
    for _ in range(_MOST_STEPS):
        used = program.rows[:, plan].sum(axis=1)
        over = np.maximum(used - program.rhs, 0.0)
        if not over.any():
            return plan
        step = program.rows - program.rows[:, plan][:, program.group]
        left = np.maximum(used[:, None] + step - program.rhs[:, None], 0.0)
        removed = ((over[:, None] - left) * unit[:, None]).sum(axis=0)
        price = np.maximum(reduced - reduced[plan][program.group], 0.0)
        # All free steps would tie: prefer the one that removes most.
        price += 1e-9 * price.max(initial=0.0) + 1e-300
        with np.errstate(over="ignore"):  # almost free steps: infinity is the right rate
            rate = np.divide(removed, price, out=np.full_like(price, -np.inf), where=removed > 0)
        column = int(rate.argmax())
        if not removed[column] > 0:
            return None
        plan[program.group[column]] = column
    return None


def fill(program: Program, plan: IntArray) -> IntArray:
    """Repeatedly take the single step that lowers the cost most and fits, until there is none.

    Args:
        program: Columns and rows.
        plan: int [G]; fits.
    """
    plan = plan.copy()
    while True:
        slack = program.rhs - program.rows[:, plan].sum(axis=1)
        step = program.rows - program.rows[:, plan][:, program.group]
        gain = program.cost - program.cost[plan][program.group]
        gain = np.where((step <= slack[:, None]).all(axis=0), gain, 0.0)
        column = int(gain.argmin())
        if gain[column] >= 0:
            return plan
        candidate = plan.copy()
        candidate[program.group[column]] = column
        if not program.fits(candidate):  # the sum rounds differently from the step
            return plan
        plan = candidate


def swap_pairs(program: Program, reduced: FloatArray, plan: IntArray) -> IntArray:
    """Change two groups at once, among the columns of least reduced cost, as long as that lowers the cost.

    Args:
        program: Columns and rows.
        reduced: Reduced cost of each column, float [N].
        plan: int [G]; fits.
    """
    near = np.argsort(reduced, kind="stable")[:_PAIR_COLUMNS]
    group = program.group[near]
    apart = group[:, None] != group
    least_gain = program.rounding(float(program.cost[plan].sum()))  # smaller gains could cycle
    while True:
        slack = program.rhs - program.rows[:, plan].sum(axis=1)
        step = program.rows[:, near] - program.rows[:, plan][:, group]
        gain = program.cost[near] - program.cost[plan][group]
        both = gain[:, None] + gain
        fits = apart.copy()
        for row, left in zip(step, slack, strict=True):
            fits &= row[:, None] + row <= left
        both = np.where(fits, both, 0.0)
        first, second = divmod(int(both.argmin()), len(near))
        candidate = plan.copy()
        candidate[group[[first, second]]] = near[[first, second]]
        if both[first, second] >= -least_gain or not program.fits(candidate):
            return plan
        plan = fill(program, candidate)
