"""Choose by size: to the proof up to 150 items (dp, then ilp where that is too large), lagrangian above."""

from dataclasses import replace

from ..model.program import Program
from ..search import exact_search, families
from ..search.default_engine import preferred
from ..search.outcome import Outcome, SearchLimits
from ..search.pulp_engine import highs_present
from . import dp, ilp, lagrangian, milp

ABOUT = (__doc__ or "").partition("\n")[0]
MOST_EXACT_GROUPS = 150
"""Items (tied ones count as one) up to which several capacities are solved to the proof."""


class Auto:
    """What `solver="auto"` runs."""

    about = ABOUT

    def usable(self) -> bool:
        """Needs only scipy."""
        return True

    def label(self) -> str:
        """Return the name; the answer names the method that was used."""
        return "auto"

    def run(self, program: Program, limits: SearchLimits) -> Outcome:
        """Return the answer of the method that suits the size."""
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
