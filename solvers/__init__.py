"""One option per item, least value, several capacities: exact answers with their proof.

    problem = ChoiceProblem(items, options, value, usage={"bytes": table}, capacity={"bytes": 25e6})
    solution = solve(problem)

Residency and the like need no notion of their own: "4 bits, kept on chip" and "4 bits, streamed" are two options,
and the scratchpad is one more resource.

Pure mathematics: no torch, no hardware. Solvers are the files in `methods/`.
"""

from .baselines import Baseline, random_plans, uniform_plans
from .errors import ProblemError, SolverError
from .explain import Reason, Step, explain
from .frontier import Frontier, FrontierPoint, pareto
from .interactions import price_interactions, solve_interactions
from .pricing import price, violations
from .problem import ChoiceProblem
from .questions import capacity_range, least_usage, least_value, reverse, shadow_price
from .refine import Refinement, refine
from .registry import available, describe
from .shortlist import top_k
from .solution import ChoiceSolution, Status
from .solving import solve

__all__ = [
    "Baseline",
    "ChoiceProblem",
    "ChoiceSolution",
    "Frontier",
    "FrontierPoint",
    "ProblemError",
    "Reason",
    "Refinement",
    "SolverError",
    "Status",
    "Step",
    "available",
    "capacity_range",
    "describe",
    "explain",
    "least_usage",
    "least_value",
    "pareto",
    "price",
    "price_interactions",
    "random_plans",
    "refine",
    "reverse",
    "shadow_price",
    "solve",
    "solve_interactions",
    "top_k",
    "uniform_plans",
    "violations",
]
