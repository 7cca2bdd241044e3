"""Choose by size: dp for one capacity, ilp up to 150 items, lagrangian above."""

from dataclasses import replace

from .. import families
from ..outcome import Limits, Outcome
from ..program import Program
from ..solution import PROVEN_GAP, relative_gap
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
    groups = int(program.group[-1]) + 1
    if dp.suits(program):
        outcome = dp.run(program, limits)
        if groups > MOST_EXACT_GROUPS or not outcome.finished or _proven(program, outcome):
            return replace(outcome, solver=f"auto: {dp.label()}")
    manageable = program.max_families is None or families.countable(program)
    if groups > MOST_EXACT_GROUPS and manageable:
        return replace(lagrangian.run(program, limits), solver=f"auto: {lagrangian.label()}")
    if ilp.usable():
        return replace(ilp.run(program, limits), solver=f"auto: {ilp.label()}")
    return replace(milp.run(program, limits), solver=f"auto: {milp.label()}")


def _proven(program: Program, outcome: Outcome) -> bool:
    if outcome.columns is None:
        return True
    return relative_gap(float(program.cost[outcome.columns].sum()), outcome.bound) <= PROVEN_GAP
