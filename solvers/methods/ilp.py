"""Integer programming with PuLP: HiGHS if highspy is installed, else the bundled CBC (PuLP 3)."""

from importlib.metadata import version

from ..model.program import Program
from ..search import exact_search
from ..search.outcome import Outcome, SearchLimits
from ..search.pulp_engine import cbc_present, highs_present, minimise_by_cbc, minimise_by_highs

ABOUT = (__doc__ or "").partition("\n")[0]


class Ilp:
    """What `solver="ilp"` runs."""

    about = ABOUT

    def usable(self) -> bool:
        """Needs PuLP, and highspy or PuLP's own CBC."""
        return highs_present() or cbc_present()

    def label(self) -> str:
        """Return name and versions."""
        name = f"HiGHS {version('highspy')}" if highs_present() else "CBC"
        return f"ilp (PuLP {version('pulp')}, {name})"

    def run(self, program: Program, limits: SearchLimits) -> Outcome:
        """Return the optimum, proven by HiGHS or CBC.

        Args:
            program: Presolved and scaled.
            limits: Time, gap and seed.
        """
        engine = minimise_by_highs if highs_present() else minimise_by_cbc
        return exact_search.prove(program, limits, exact_search.ByEngine(engine))


METHOD = Ilp()
