"""Exact answers from a branch-and-bound engine: scaled, checked against the tables, ties decided.

Engines have absolute tolerances (about 1e-6), so tiny values vanish and a plan may exceed a capacity by some
bytes. Here the program is rescaled before, and every plan is priced exactly after.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from .errors import SolverError
from .outcome import Limits, Outcome
from .presolve import cheapest
from .program import FloatArray, IntArray, Program

COST_SPAN = 1e6
"""The dearest column, after scaling. Engine tolerances are below 1e-6 of one unit."""
ROW_SPAN = 1e4
TIE_TOLERANCE = 1e-9
"""Plans whose values differ by less than this part of the value (above its least) count as equal."""
_MOST_REJECTED = 50


class Engine(Protocol):
    """Least cost of a scaled program; each plan in `rejected` must not come back."""

    def __call__(self, program: Program, rejected: tuple[IntArray, ...], limits: Limits) -> Outcome:
        """Return the outcome in the units of the program that was given."""


@dataclass(frozen=True, slots=True)
class _Scaling:
    factor: float
    offset: float

    def undo(self, bound: float) -> float:
        return bound / self.factor + self.offset


def scaled(program: Program) -> tuple[Program, _Scaling]:
    """Subtract each group's least cost and usage, then bring costs and rows to the engine's range."""
    least_cost = program.least(program.cost)
    cost = program.cost - least_cost[program.group]
    span = float(cost.max())
    # With everything at its least there is nothing to scale.
    factor = COST_SPAN / span if span > 0 else 1.0
    least = program.least(program.rows)
    rows = program.rows - least[:, program.group]
    room = np.maximum(program.rhs - least.sum(axis=1), 0.0)
    per_row = ROW_SPAN / np.maximum(np.maximum(room, rows.max(axis=1, initial=0.0)), 1e-300)
    small = replace(program, cost=cost * factor, rows=rows * per_row[:, None], rhs=room * per_row)
    return small, _Scaling(factor, float(least_cost.sum()))


def prove(program: Program, limits: Limits, engine: Engine) -> Outcome:
    """Return the best plan of a presolved program and its proof; of equal values the least `tie`."""
    easiest = cheapest(program)
    if program.fits(easiest):
        return Outcome(easiest, float(program.cost[easiest].sum()), finished=True)
    best = search(program, limits, engine)
    if best.columns is None or not best.finished:
        return best
    return Outcome(_least_tie(program, best.columns, limits, engine), best.bound, finished=True)


def search(program: Program, limits: Limits, engine: Engine) -> Outcome:
    """Run the engine until its plan really fits; one that fits only within tolerances is cut off."""
    small, scaling = scaled(program)
    rejected: tuple[IntArray, ...] = ()
    while len(rejected) <= _MOST_REJECTED:
        outcome = engine(small, rejected, limits)
        if outcome.columns is None or program.fits(outcome.columns):
            return replace(outcome, bound=scaling.undo(outcome.bound))
        rejected += (outcome.columns,)
    raise SolverError(
        f"solve: {len(rejected)} plans in a row fit only within the engine's tolerance. "
        "Round the usage tables to whole units or use the solver 'dp' or 'lagrangian'."
    )


def _least_tie(program: Program, columns: IntArray, limits: Limits, engine: Engine) -> IntArray:
    """Among the plans of equal cost return the one that uses least of the tie-breaking resource."""
    least = program.least(program.cost)
    excess: FloatArray = program.cost - least[program.group]
    allowance = float(excess[columns].sum()) * (1 + TIE_TOLERANCE)
    equal = program.keep(excess <= allowance)
    assert equal is not None  # the plan itself is in there
    if not _could_tie(equal):
        return columns
    cutoff = float(least.sum()) + allowance
    second = replace(
        equal, cost=equal.tie, rows=np.vstack([equal.rows, equal.cost]), rhs=np.append(equal.rhs, cutoff)
    )
    outcome = search(second, limits, engine)
    if outcome.columns is None:
        return columns
    original = _find(program, equal.group[outcome.columns], equal.option[outcome.columns])
    return original if program.tie[original].sum() < program.tie[columns].sum() else columns


def _could_tie(program: Program) -> bool:
    return bool((program.least(-program.tie) != -program.least(program.tie)).any())


def _find(program: Program, group: IntArray, option: IntArray) -> IntArray:
    """Return the columns of `program` with these groups and options."""
    width = int(program.option.max()) + 1
    return np.searchsorted(program.group * width + program.option, group * width + option).astype(np.int64)
