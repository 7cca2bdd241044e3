"""Choose the method by the size of the problem."""

from ..outcome import Limits, Outcome
from ..program import Program
from . import ilp, milp


def usable() -> bool:
    """Needs only scipy."""
    return True


def label() -> str:
    """Return name and version of what it uses."""
    return f"auto: {(ilp if ilp.usable() else milp).label()}"


def run(program: Program, limits: Limits) -> Outcome:
    """Return the answer of the method that suits the size."""
    return ilp.run(program, limits) if ilp.usable() else milp.run(program, limits)
