"""Integer programming with SciPy's built-in HiGHS; needs no other package."""

from importlib.metadata import version

from ..model.program import Program
from ..search import exact_search
from ..search.outcome import Outcome, SearchLimits
from ..search.scipy_engine import minimise_by_scipy

ABOUT = (__doc__ or "").partition("\n")[0]


class Milp:
    """What `solver="milp"` runs."""

    about = ABOUT

    def usable(self) -> bool:
        """Needs only scipy."""
        return True

    def label(self) -> str:
        """Return name and version."""
        return f"milp (SciPy {version('scipy')}, its HiGHS)"

    def run(self, program: Program, limits: SearchLimits) -> Outcome:
        """Return the optimum, proven by SciPy's HiGHS.

        Args:
            program: Presolved and scaled.
            limits: Time and gap.
        """
        return exact_search.prove(program, limits, exact_search.ByEngine(minimise_by_scipy))


METHOD = Milp()
