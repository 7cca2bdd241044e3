"""One option per item, least value, several capacities: exact answers with their proof.

    problem = ChoiceProblem(items, options, value, usage={"bytes": table}, capacity={"bytes": 25e6})
    solution = solve(problem)

Pure mathematics: no torch, no hardware. Solvers are the files in `methods/`.
"""

from .errors import ProblemError, SolverError
from .frontier import Frontier, FrontierPoint, pareto
from .interactions import price_interactions, solve_interactions
from .pricing import price, violations
from .problem import ChoiceProblem
from .questions import capacity_range, least_usage, shadow_price
from .refine import Refinement, refine
from .registry import available, describe
from .shortlist import top_k
from .solution import ChoiceSolution, Status
from .solving import solve

__all__ = [
    "ChoiceProblem",
    "ChoiceSolution",
    "Frontier",
    "FrontierPoint",
    "ProblemError",
    "Refinement",
    "SolverError",
    "Status",
    "available",
    "capacity_range",
    "describe",
    "least_usage",
    "pareto",
    "price",
    "price_interactions",
    "refine",
    "shadow_price",
    "solve",
    "solve_interactions",
    "top_k",
    "violations",
]
