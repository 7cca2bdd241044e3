"""The default engine and closer, for searches where the user has not chosen a solver."""

from .exact_search import PartialPlansFirst
from .pulp_engine import highs_present, minimise_by_highs
from .scaled_engine import Engine
from .scipy_engine import minimise_by_scipy


def preferred() -> PartialPlansFirst:
    """Return a closer that tries partial plans first, then the installed engine with the tightest tolerances."""
    return PartialPlansFirst(engine())


def engine() -> Engine:
    """Return HiGHS by highspy if it is installed, else SciPy's built-in HiGHS."""
    return minimise_by_highs if highs_present() else minimise_by_scipy
