"""The closer for searches that no user has chosen one for."""

from .branch import Engine, StatesFirst


def preferred() -> StatesFirst:
    """Return the states, and behind them HiGHS by highspy where it is installed (tighter tolerances), else SciPy's."""
    return StatesFirst(engine())


def engine() -> Engine:
    """Return HiGHS by highspy where it is installed, else SciPy's own."""
    from importlib.util import find_spec

    from .methods import ilp, milp

    return milp.minimise if find_spec("highspy") is None or find_spec("pulp") is None else ilp.minimise
