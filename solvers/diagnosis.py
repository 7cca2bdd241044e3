"""Why a solution is not better: binding rows, the nearest feasible capacities, and conflicting rows."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .model.errors import SolverError
from .model.pricing import capacity_with_rounding, price
from .model.problem import ChoiceProblem
from .model.program import Program, lift, program_of
from .search import exact_search, proof
from .search.default_engine import preferred
from .search.outcome import Outcome, SearchLimits
from .search.presolve import presolve


def binding_rows(problem: ChoiceProblem, choice: Sequence[int]) -> tuple[str, ...]:
    """Return the binding resources: more of one of them alone would let some item (with its ties) take a better option.

    If every better option exceeds several capacities, return those that would have to grow together.

    Args:
        problem: Rows and tables.
        choice: Option index of each item.
    """
    _, usage = price(problem, choice)
    names = [name for name, limit in problem.capacity.items() if limit != math.inf]
    limits = np.array([capacity_with_rounding(problem.capacity[name]) for name in names])
    used = np.array([usage[name] for name in names])
    mask = problem.mask()
    blocked = [np.zeros((0, len(names)), dtype=bool)]
    groups = problem.groups()
    alone = np.array([members[0] for members in groups if len(members) == 1], dtype=np.int64)
    if len(alone):
        at = np.asarray(choice)[alone]
        gain = problem.value[alone] - problem.value[alone, at][:, None]
        items, options = np.nonzero(mask[alone] & (gain < 0))
        tables = [problem.usage[name][alone] for name in names]
        steps = [table[items, options] - table[items, at[items]] for table in tables]
        blocked.append((used + np.reshape(steps, (len(names), len(items))).T) > limits)
    for members in groups:
        if len(members) == 1:
            continue
        rows, current = list(members), choice[members[0]]
        options = np.flatnonzero(mask[rows].all(axis=0))
        gain = problem.value[rows][:, options].sum(axis=0) - problem.value[rows, current].sum()
        better = options[gain < 0]
        tables = [problem.usage[name][rows] for name in names]
        steps = [table[:, better].sum(axis=0) - table[:, current].sum() for table in tables]
        blocked.append((used + np.reshape(steps, (len(names), len(better))).T) > limits)
    together = np.vstack(blocked)
    together = together[together.any(axis=1)]
    if not len(together):
        return ()
    fewest = together.sum(axis=1)
    binds = together[fewest == fewest.min()].any(axis=0)
    return tuple(name for name, yes in zip(names, binds, strict=True) if yes)


def least_of(problem: ChoiceProblem, resource: str) -> float:
    """Return the least usage of one resource under all other rows; infinity if there is no plan.

    Args:
        problem: Rows and tables; the capacity of `resource` is ignored.
        resource: One with a usage table.

    Raises:
        SolverError: The resource has no usage table.
    """
    if resource not in problem.usage:
        known = ", ".join(problem.usage) or "none"
        raise SolverError(f"resource: {resource!r} has no usage table. Resources: {known}.")
    others = {name: limit for name, limit in problem.capacity.items() if name != resource}
    turned = replace(problem, value=problem.usage[resource], capacity=others, tie_break=resource)
    reduced = presolve(program_of(turned))
    outcome = None if reduced is None else proof.prove(reduced, SearchLimits(), _by_default)
    if reduced is None or outcome is None or outcome.columns is None:
        return math.inf
    return price(problem, lift(problem, reduced, outcome.columns))[1][resource]


def nearest_capacities(problem: ChoiceProblem) -> dict[str, float]:
    """Return the least feasible capacity of each limited resource, with the other rows unchanged.

    If no capacity of one resource alone is enough, return its least usage without the other capacities. Empty if masks
    and links alone leave no plan.

    Args:
        problem: An infeasible problem.
    """
    nearest = {}
    for name, limit in problem.capacity.items():
        if limit == math.inf:
            continue
        least = least_of(problem, name)
        nearest[name] = least if math.isfinite(least) else least_of(replace(problem, capacity={}), name)
    return {name: least for name, least in nearest.items() if math.isfinite(least)}


def conflicting_rows(problem: ChoiceProblem) -> tuple[str, ...]:
    """Return a minimal set of rows that cannot hold together (deletion filter, Chinneck 2008).

    Links are removed first, so that they are named only if the capacities alone can hold.

    Args:
        problem: An infeasible problem.
    """
    needed: list[str] = []
    current = problem
    links = [name for name in ("pins", "ties") if getattr(problem, name)]
    links += ["max_families"] if problem.max_families is not None else []
    for row in [*links, *problem.capacity]:
        without = _without(current, row)
        if _feasible(without):
            needed.append(row)
        else:
            current = without
    return tuple(needed)


def _without(problem: ChoiceProblem, row: str) -> ChoiceProblem:
    match row:
        case "pins" if problem.pins:
            return replace(problem, pins={})
        case "ties" if problem.ties:
            return replace(problem, ties=())
        case "max_families":
            return replace(problem, max_families=None)
        case _:
            return replace(problem, capacity={name: c for name, c in problem.capacity.items() if name != row})


def _feasible(problem: ChoiceProblem) -> bool:
    limited = [name for name, limit in problem.capacity.items() if limit != math.inf]
    if not limited:
        return presolve(program_of(problem)) is not None and math.isfinite(_any_plan(problem))
    return least_of(problem, limited[0]) <= capacity_with_rounding(problem.capacity[limited[0]])


def _any_plan(problem: ChoiceProblem) -> float:
    """Return 0 when masks, pins, ties and families alone leave a plan, else infinity."""
    free = replace(problem, value=np.zeros_like(problem.value), capacity={})
    reduced = presolve(program_of(free))
    outcome = None if reduced is None else proof.prove(reduced, SearchLimits(), _by_default)
    return math.inf if outcome is None or outcome.columns is None else 0.0


def _by_default(program: Program, limits: SearchLimits) -> Outcome:
    return exact_search.prove(program, limits, preferred())
