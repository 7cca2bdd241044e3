"""Integer programming with PuLP's bundled CBC (PuLP 3); for comparison, or if highspy is not installed."""

from importlib.metadata import version

from ..model.program import Program
from ..search import exact_search
from ..search.outcome import Outcome, SearchLimits
from ..search.pulp_engine import cbc_present, minimise_by_cbc

ABOUT = (__doc__ or "").partition("\n")[0]


class Cbc:
    """What `solver="cbc"` runs."""

    about = ABOUT

    def usable(self) -> bool:
        """Needs PuLP with its own CBC (PuLP 4 has none)."""
        return cbc_present()

    def label(self) -> str:
        """Return name and version."""
        return f"cbc (PuLP {version('pulp')}, CBC)"

    def run(self, program: Program, limits: SearchLimits) -> Outcome:
        """Return the optimum, proven by CBC.

        Args:
            program: Presolved and scaled.
            limits: Time, gap and seed.
        """
        return exact_search.prove(program, limits, exact_search.ByEngine(minimise_by_cbc))


METHOD = Cbc()
