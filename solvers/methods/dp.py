"""Dynamic programming over one capacity, exact without a grid: the fastest for one budget."""

import numpy as np

from .. import branch
from ..engines import preferred
from ..errors import SolverError
from ..incumbent import incumbent
from ..outcome import Limits, Outcome
from ..presolve import cheapest
from ..program import Program
from ..relaxation import relax
from ..states import close_one_row


def usable() -> bool:
    """Needs only scipy."""
    return True


def label() -> str:
    """Return name and version."""
    return f"dp (numpy {np.__version__})"


def suits(program: Program) -> bool:
    """Say whether there is at most one capacity and no limit on families."""
    return len(program.rhs) <= 1 and program.max_families is None


def run(program: Program, limits: Limits) -> Outcome:
    """Return the proven best plan, or a good one and the relaxation's bound where too many states would be kept.

    Raises:
        SolverError: There are several capacities or a limit on families.
    """
    if not suits(program):
        raise SolverError(
            f"dp: takes one capacity and no max_families, found {len(program.rhs)} capacities that matter. "
            "Use the solver 'ilp'."
        )
    easiest = cheapest(program)
    if program.fits(easiest):
        return Outcome(easiest, float(program.cost[easiest].sum()), finished=True)
    relaxation = relax(program)
    best = close_one_row(program, relaxation, incumbent(program, relaxation), limits)
    if best.columns is None or not best.finished or np.array_equal(program.tie, program.rows[0]):
        return best  # of equal costs the search keeps the least usage of its row, which is the tie-breaker
    tied = branch.least_tie(program, float(program.cost[best.columns].sum()), limits, preferred())
    return best if tied is None else Outcome(tied, best.bound, best.finished)
