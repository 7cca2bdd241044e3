"""Choose one option per item with the least total value under several capacities, with a proof of optimality.

    problem = ChoiceProblem(items, options, value, usage={"bytes": table}, capacity={"bytes": 25e6})
    solution = solve(problem)

Residency needs no special treatment: "4 bits, kept on chip" and "4 bits, streamed" are two options, and the scratchpad
is one more resource.

Pure mathematics: no torch, no hardware. Each room imports only from those before it: `model/` (problem, pricing,
reduced program, solution), `search/` (bounds, partial plans, engines, proof), `methods/` (one solver per file; other
packages add solvers by an entry point of the group `qbert_opt.solvers`), `solving.py`, `analysis/` (frontier,
capacities, explanations, baselines).
"""

from .analysis.baselines import Baseline, random_plans, uniform_plans
from .analysis.capacity_analysis import capacity_range, least_usage, least_value, reverse, shadow_price
from .analysis.explain import Reason, Step, explain
from .analysis.frontier import Frontier, pareto
from .analysis.frontier_points import FrontierPoint
from .analysis.refine import Refinement, refine
from .analysis.shortlist import differing, top_k
from .diagnosis import binding_rows
from .methods import SolverMethod
from .model.errors import ProblemError, SolverError
from .model.pricing import price, violations
from .model.problem import ChoiceProblem
from .model.program import Program
from .model.solution import PROVEN_GAP, ChoiceSolution, Status, relative_gap
from .registry import available, describe
from .search.outcome import Outcome, SearchLimits
from .solving import solve

__all__ = [
    "PROVEN_GAP",
    "Baseline",
    "ChoiceProblem",
    "ChoiceSolution",
    "Frontier",
    "FrontierPoint",
    "Outcome",
    "ProblemError",
    "Program",
    "Reason",
    "Refinement",
    "SearchLimits",
    "SolverError",
    "SolverMethod",
    "Status",
    "Step",
    "available",
    "binding_rows",
    "capacity_range",
    "describe",
    "differing",
    "explain",
    "least_usage",
    "least_value",
    "pareto",
    "price",
    "random_plans",
    "refine",
    "relative_gap",
    "reverse",
    "shadow_price",
    "solve",
    "top_k",
    "uniform_plans",
    "violations",
]
