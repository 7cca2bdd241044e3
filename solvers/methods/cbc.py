"""Integer program by PuLP and the CBC that PuLP 3 brings; for comparison and where highspy is missing."""

from importlib.metadata import version

from .. import branch
from ..outcome import Limits, Outcome
from ..program import Program
from . import ilp


def usable() -> bool:
    """Needs PuLP with its own CBC (PuLP 4 has none)."""
    return ilp.cbc_present()


def label() -> str:
    """Return name and version."""
    return f"cbc (PuLP {version('pulp')}, CBC)"


def run(program: Program, limits: Limits) -> Outcome:
    """Return the proven best plan."""
    return branch.prove(program, limits, branch.ByEngine(ilp.minimise_by_cbc))
