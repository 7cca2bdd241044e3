"""Picks a method by problem size: dp (or ilp, if dp grows too large) up to 150 items, lagrangian above."""

from dataclasses import replace

from ..model.program import Program
from ..search import exact_search, families
from ..search.default_engine import preferred
from ..search.outcome import Outcome, SearchLimits
from ..search.pulp_engine import highs_present
from . import dp, ilp, lagrangian, milp

ABOUT = (__doc__ or "").partition("\n")[0]
MOST_EXACT_GROUPS = 150
"""Items (tied ones count as one) up to which problems with several capacities are solved to proven optimality."""


class Auto:
    """What `solver="auto"` runs."""

    about = ABOUT

    def usable(self) -> bool:
        """Needs only scipy."""
        return True

    def label(self) -> str:
        """Return the name; the solution names the method that was used."""
        return "auto"

    def run(self, program: Program, limits: SearchLimits) -> Outcome:
        """Return the outcome of the method that suits the size of the program.

        Args:
            program: Presolved and scaled.
            limits: Time, gap and seed.
        """
        large = len(program.starts) > MOST_EXACT_GROUPS
        if large and len(program.rhs) <= 1 and program.max_families is None:
            return replace(dp.METHOD.run(program, limits), solver=f"auto: {dp.METHOD.label()}")
        if large and (program.max_families is None or families.countable(program)):
            return replace(lagrangian.METHOD.run(program, limits), solver=f"auto: {lagrangian.METHOD.label()}")
        closer = preferred()
        outcome = exact_search.prove(program, limits, closer)
        by_engine = ilp.METHOD if highs_present() else milp.METHOD
        return replace(outcome, solver=f"auto: {by_engine.label() if closer.used_engine else dp.METHOD.label()}")


METHOD = Auto()
