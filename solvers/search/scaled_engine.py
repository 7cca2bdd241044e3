"""Run an engine on a rescaled program, and price its plans exactly.

Engines have absolute tolerances (about 1e-6), with which tiny values vanish and a plan may exceed a capacity by a few
bytes. The program is therefore rescaled first, and every plan is priced exactly afterwards.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from ..model.errors import SolverError
from ..model.program import IntArray, Program
from .outcome import Outcome, SearchLimits

COST_SPAN = 1e6
"""Cost of the most expensive column after scaling. Engine tolerances are below 1e-6 of one unit."""
ROW_SPAN = 1e4
_MOST_REJECTED = 50


class Engine(Protocol):
    """Minimizes a scaled program; must not return any plan in `rejected`."""

    def __call__(self, program: Program, rejected: tuple[IntArray, ...], limits: SearchLimits) -> Outcome:
        """Return the outcome in the units of the given program."""


@dataclass(frozen=True, slots=True)
class _Scaling:
    factor: float
    offset: float

    def undo(self, bound: float) -> float:
        return bound / self.factor + self.offset


def scaled(program: Program) -> tuple[Program, _Scaling]:
    """Subtract each group's least cost and usage, then bring costs and rows to the engine's range.

    Args:
        program: Costs and rows of any size.

    Returns:
        The scaled program, and how to undo the scaling of a bound.
    """
    least_cost = program.least(program.cost)
    cost = program.cost - least_cost[program.group]
    span = float(cost.max())
    # If all costs are equal there is nothing to scale.
    factor = COST_SPAN / max(span, 1e-290) if span > 0 else 1.0
    least = program.least(program.rows)
    rows = program.rows - least[:, program.group]
    room = np.maximum(program.rhs - least.sum(axis=1), 0.0)
    per_row = ROW_SPAN / np.maximum(np.maximum(room, rows.max(axis=1, initial=0.0)), 1e-300)
    small = replace(program, cost=cost * factor, rows=rows * per_row[:, None], rhs=room * per_row)
    return small, _Scaling(factor, float(least_cost.sum()))


def search(program: Program, limits: SearchLimits, engine: Engine) -> Outcome:
    """Run an engine until its plan really fits; a plan that fits only within the engine's tolerance is cut off.

    Args:
        program: The columns to search.
        limits: Time and gap.
        engine: Minimizes a scaled program.

    Raises:
        SolverError: Too many plans in a row fit only within the tolerance.
    """
    small, scaling = scaled(program)
    rejected: tuple[IntArray, ...] = ()
    while len(rejected) <= _MOST_REJECTED:
        outcome = engine(small, rejected, limits)
        if outcome.columns is None or program.fits(outcome.columns):
            return replace(outcome, bound=scaling.undo(outcome.bound))
        rejected += (outcome.columns,)
    raise SolverError(
        f"solve: {len(rejected)} plans in succession fit only within the engine's tolerance. "
        "Round the usage tables to whole units or use the solver 'dp' or 'lagrangian'."
    )
