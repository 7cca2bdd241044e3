"""Choose by size: to the proof up to 150 items (dp, then ilp where that is too large), lagrangian above."""

from dataclasses import replace

from .. import branch, families
from ..outcome import Limits, Outcome
from ..program import Program
from . import dp, ilp, lagrangian, milp

MOST_EXACT_GROUPS = 150
"""Items (tied ones count as one) up to which several capacities are solved to the proof."""


def usable() -> bool:
    """Needs only scipy."""
    return True


def label() -> str:
    """Return the name; the answer names the method that was used."""
    return "auto"


def run(program: Program, limits: Limits) -> Outcome:
    """Return the answer of the method that suits the size."""
    large = len(program.starts) > MOST_EXACT_GROUPS
    if large and len(program.rhs) <= 1 and program.max_families is None:
        return replace(dp.run(program, limits), solver=f"auto: {dp.label()}")
    if large and (program.max_families is None or families.countable(program)):
        return replace(lagrangian.run(program, limits), solver=f"auto: {lagrangian.label()}")
    exact, engine = (ilp, ilp.engine()) if ilp.usable() else (milp, milp.minimise)
    closer = branch.StatesFirst(engine)
    outcome = branch.prove(program, limits, closer)
    return replace(outcome, solver=f"auto: {exact.label() if closer.used_engine else dp.label()}")
