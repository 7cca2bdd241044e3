"""Dynamic programming over partial plans, exact without a grid or an engine: the fastest for few capacities."""

from dataclasses import replace

import numpy as np

from .. import branch, families, states
from ..errors import SolverError
from ..outcome import Limits, Outcome
from ..program import Program


def usable() -> bool:
    """Needs only scipy."""
    return True


def label() -> str:
    """Return name and version."""
    return f"dp (numpy {np.__version__})"


def run(program: Program, limits: Limits) -> Outcome:
    """Return the proven best plan, or a good one and the bound that was reached where too many states would be kept.

    Raises:
        SolverError: Too many states before any plan was found, or too many sets of families.
    """
    if program.max_families is not None and not families.countable(program):
        raise SolverError("dp: too many sets of families. Use the solver 'ilp' or fewer families.")
    outcome = branch.prove(program, limits, states.close)
    if outcome.finished or limits.expired():
        return outcome
    if outcome.columns is None:
        raise SolverError("dp: too many partial plans before the first that fits. Use the solver 'ilp'.")
    return replace(outcome, finished=True)
