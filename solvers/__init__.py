"""One option per item, least value, several capacities: exact answers with their proof.

    problem = ChoiceProblem(items, options, value, usage={"bytes": table}, capacity={"bytes": 25e6})
    solution = solve(problem)

Pure mathematics: no torch, no hardware. Solvers are the files in `methods/`.
"""

from .errors import ProblemError, SolverError
from .pricing import price, violations
from .problem import ChoiceProblem
from .questions import capacity_range, shadow_price
from .registry import available, describe
from .solution import ChoiceSolution, Status
from .solving import solve

__all__ = [
    "ChoiceProblem",
    "ChoiceSolution",
    "ProblemError",
    "SolverError",
    "Status",
    "available",
    "capacity_range",
    "describe",
    "price",
    "shadow_price",
    "solve",
    "violations",
]
