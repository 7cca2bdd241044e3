"""One solver per file, named after the file: each defines `METHOD`, a `SolverMethod`.

The first line of a file's docstring describes the solver. Another package adds a solver by an entry point of the group
`qbert_opt.solvers` that names such an object.
"""

from typing import Protocol, runtime_checkable

from ..model.program import Program
from ..search.outcome import Outcome, SearchLimits


@runtime_checkable
class SolverMethod(Protocol):
    """A way to solve a program.

    Attributes:
        about: One line: how it works and what it is good for.
    """

    about: str

    def usable(self) -> bool:
        """Return whether the packages that it needs are installed."""

    def label(self) -> str:
        """Return name and version, starting with the name of the solver."""

    def run(self, program: Program, limits: SearchLimits) -> Outcome:
        """Return the best plan of the search, and a bound on the cost of every plan.

        Args:
            program: Presolved and scaled: costs and rows are at most 1.
            limits: Time, gap and seed.

        Raises:
            SolverError: The program is too large, or of a kind that the method does not support.
        """
