"""Exact dynamic programming over partial plans, without discretization or other packages; fastest for few limits."""

from dataclasses import replace

import numpy as np

from ..model.errors import SolverError
from ..model.program import Program
from ..search import exact_search, families, partial_plans
from ..search.outcome import Outcome, SearchLimits

ABOUT = (__doc__ or "").partition("\n")[0]


class DynamicProgramming:
    """What `solver="dp"` runs."""

    about = ABOUT

    def usable(self) -> bool:
        """Needs only scipy."""
        return True

    def label(self) -> str:
        """Return name and version."""
        return f"dp (numpy {np.__version__})"

    def run(self, program: Program, limits: SearchLimits) -> Outcome:
        """Return the proven optimum, or a good plan and a bound if too many partial plans would have to be kept.

        Args:
            program: Presolved and scaled.
            limits: Time and gap.

        Raises:
            SolverError: The number of partial plans, or of sets of families, is too large.
        """
        if program.max_families is not None and not families.countable(program):
            raise SolverError("dp: too many sets of families. Use the solver 'ilp' or fewer families.")
        outcome = exact_search.prove(program, limits, partial_plans.close)
        if outcome.finished or limits.expired():
            return outcome
        if outcome.columns is None:
            raise SolverError("dp: too many partial plans before the first that fits. Use the solver 'ilp'.")
        return replace(outcome, finished=True)


METHOD = DynamicProgramming()
