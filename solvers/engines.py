"""The engine for searches that no user has chosen one for."""

from .branch import Engine


def preferred() -> Engine:
    """Return HiGHS by highspy where it is installed (newer, tighter tolerances), else SciPy's own."""
    from importlib.util import find_spec

    from .methods import ilp, milp

    return milp.minimise if find_spec("highspy") is None or find_spec("pulp") is None else ilp.minimise
