"""The engine and the closer for searches that no user has chosen one for."""

from .exact_search import Engine, PartialPlansFirst
from .pulp_engine import highs_present, minimise_by_highs
from .scipy_engine import minimise_by_scipy


def preferred() -> PartialPlansFirst:
    """Return the partial plans, and behind them the engine of tightest tolerances that is installed."""
    return PartialPlansFirst(engine())


def engine() -> Engine:
    """Return HiGHS by highspy where it is installed, else SciPy's own."""
    return minimise_by_highs if highs_present() else minimise_by_scipy
