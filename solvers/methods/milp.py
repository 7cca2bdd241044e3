"""Branch and bound by SciPy's own HiGHS, with no other package."""

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
        """Return the proven best plan."""
        return exact_search.prove(program, limits, exact_search.ByEngine(minimise_by_scipy))


METHOD = Milp()
