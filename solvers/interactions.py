"""Rounding errors that add up or cancel: least ½‖Σ_l s_l(choice)‖² + Σ_l v_l(choice) under the same rows.

The quadratic program of CLADO (Deng et al. 2023), from low-rank factors s instead of a matrix of pairs. For any
vector w, ½‖y‖² ≥ w·y − ½‖w‖², so a plan costs at least the best value of the *linear* problem with values
v + w·s, less ½‖w‖² (Fenchel). The linear problem has a Lagrangian bound, and w is improved by Frank-Wolfe steps.

Where it helps: when errors of several items are correlated and the factors come from enough samples. Factors of few
samples are overfitted badly (the search finds cancellations that are noise, and the relaxation cancels everything, so
that the bound is 0); then the plain sum is the better guide, or factors scaled by √α with (1 − α)·½‖s‖² in `value`.
"""

import math
import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .branch import best_plan
from .engines import preferred
from .errors import SolverError
from .incumbent import fill, incumbent, repair
from .outcome import Limits
from .presolve import drop_unfitting
from .pricing import price
from .problem import ChoiceProblem
from .program import FloatArray, IntArray, Program, lift, program_of
from .relaxation import relax
from .solution import PROVEN_GAP, ChoiceSolution, Status, relative_gap

_PAIR_COLUMNS = 400


@dataclass(frozen=True, slots=True, eq=False)
class _Quadratic:
    """½‖Σ s‖² + Σ v over the columns of a program: vectors float [N, K], linear float [N]."""

    vectors: FloatArray
    linear: FloatArray

    def value(self, plan: IntArray) -> float:
        total = self.vectors[plan].sum(axis=0)
        return float(0.5 * total @ total + self.linear[plan].sum())


def price_interactions(problem: ChoiceProblem, factors: NDArray[np.float64], choice: tuple[int, ...]) -> float:
    """Return ½‖Σ_l s_l‖² + Σ_l v_l of one plan; `factors` is float [I, O, K]."""
    total = factors[range(len(choice)), choice].sum(axis=0)
    return 0.5 * float(total @ total) + price(problem, choice)[0]


def solve_interactions(
    problem: ChoiceProblem,
    factors: NDArray[np.float64],
    *,
    rounds: int = 60,
    time_limit_s: float | None = None,
) -> ChoiceSolution:
    """Return a good plan and a certified bound for the quadratic problem.

    Args:
        problem: Rows and links; its `value` is the linear term.
        factors: s, float [I, O, K]; the item's own ½‖s‖² is in the square, so it must not be in `value` too.
        rounds: Frank-Wolfe steps; each gives a bound and a plan to start a local search from.
        time_limit_s: Stop after this many seconds.

    Returns:
        A solution whose `value` is the quadratic one. "optimal" only if the bound meets it within 1e-6, which
        it rarely does: the convex relaxation leaves a gap.

    Raises:
        SolverError: Factors of the wrong shape or not finite, or a limit on families (not supported here).
    """
    start = time.perf_counter()
    _check(problem, factors)
    program = drop_unfitting(program_of(problem))
    if program is None:
        return _answer(problem, factors, None, math.inf, start, stopped=False)
    quadratic = _Quadratic(_group_vectors(problem, program, factors), program.cost)
    deadline = math.inf if time_limit_s is None else start + time_limit_s
    # The plan of least summed single errors is the natural start: the answer is never worse than it.
    alone = replace(program, cost=quadratic.linear + 0.5 * (quadratic.vectors**2).sum(axis=1))
    apart = relax(alone)
    best = incumbent(alone, apart)
    if best is not None:
        best = _local_search(program, quadratic, apart.reduced, best)
    best_value, bound = math.inf if best is None else quadratic.value(best), -math.inf
    known: tuple[IntArray, ...] = ()
    total: FloatArray | None = None
    for number in range(rounds):
        guide = np.zeros(factors.shape[2]) if total is None else total
        linear = replace(program, cost=quadratic.linear + quadratic.vectors @ guide)
        relaxation = relax(linear, known=known)
        known = relaxation.plans[:8]
        if relaxation.infeasible:
            return _answer(problem, factors, None, math.inf, start, stopped=False)
        bound = max(bound, relaxation.bound - 0.5 * float(guide @ guide))
        plan = repair(linear, relaxation.reduced, relaxation.plans[0])
        if plan is None and best is None:  # only an engine can tell whether there is any plan
            plan = best_plan(linear, Limits(deadline=deadline), preferred()).columns
            if plan is None and time.perf_counter() < deadline:
                return _answer(problem, factors, None, math.inf, start, stopped=False)
        if plan is not None:
            plan = fill(linear, plan)
            total = _toward(quadratic, total, plan, number)
            # A local search from every round would find the same plans again and again.
            if number % 4 == 0 or quadratic.value(plan) < best_value:
                plan = _local_search(program, quadratic, apart.reduced, plan)
            if quadratic.value(plan) < best_value:
                best, best_value = plan, quadratic.value(plan)
        if relative_gap(best_value, bound) <= PROVEN_GAP or time.perf_counter() >= deadline:
            break
    choice = None if best is None else lift(problem, program, best)
    return _answer(problem, factors, choice, bound, start, stopped=time.perf_counter() >= deadline)


def _check(problem: ChoiceProblem, factors: NDArray[np.float64]) -> None:
    items, options = problem.value.shape
    if factors.ndim != 3 or factors.shape[:2] != (items, options):
        raise SolverError(f"factors: shape is {list(factors.shape)}. Give [{items}, {options}, K].")
    bad = np.argwhere(problem.mask() & ~np.isfinite(factors).all(axis=2))
    if len(bad):
        where = f"item {problem.items[bad[0][0]]!r}, option {problem.options[bad[0][1]]!r}"
        raise SolverError(f"factors: {where} is not finite. Mask the option or give numbers.")
    if problem.max_families is not None:
        raise SolverError("interactions: max_families is not supported. Mask the formats that may not be used.")


def _group_vectors(problem: ChoiceProblem, program: Program, factors: NDArray[np.float64]) -> FloatArray:
    """Return float [N, K]: the factors of tied items added up."""
    vectors = np.zeros((len(program.group), factors.shape[2]))
    for group, members in enumerate(problem.groups()):
        columns = np.flatnonzero(program.group == group)
        vectors[columns] = factors[list(members)][:, program.option[columns]].sum(axis=0)
    return vectors


def _toward(quadratic: _Quadratic, total: FloatArray | None, plan: IntArray, number: int) -> FloatArray:
    """Return the mean of the plans' vector sums so far, newer ones weighing more (Frank-Wolfe, step 2/(n + 2))."""
    vector: FloatArray = quadratic.vectors[plan].sum(axis=0)
    return vector if total is None else total + 2 / (number + 2) * (vector - total)


def _local_search(program: Program, quadratic: _Quadratic, reduced: FloatArray, plan: IntArray) -> IntArray:
    """Change one group, or two, while that lowers the quadratic value and every row holds."""
    near = np.argsort(reduced, kind="stable")[:_PAIR_COLUMNS]
    while True:
        value = quadratic.value(plan)
        for columns in (np.arange(len(program.group)), near):
            candidate = _best_change(program, quadratic, plan, columns, pairs=columns is near)
            if program.fits(candidate) and quadratic.value(candidate) < value - 1e-12 * abs(value):
                plan = candidate
                break
        else:
            return plan


def _best_change(
    program: Program, quadratic: _Quadratic, plan: IntArray, columns: IntArray, *, pairs: bool
) -> IntArray:
    """Return the plan after the best single step, or the best pair of steps, among some columns."""
    group = program.group[columns]
    step = quadratic.vectors[columns] - quadratic.vectors[plan[group]]
    total = quadratic.vectors[plan].sum(axis=0)
    gain = step @ total + 0.5 * (step**2).sum(axis=1) + quadratic.linear[columns] - quadratic.linear[plan[group]]
    more = program.rows[:, columns] - program.rows[:, plan[group]]
    slack = program.rhs - program.rows[:, plan].sum(axis=1)
    changed = plan.copy()
    if not pairs:
        best = int(np.where((more <= slack[:, None]).all(axis=0), gain, np.inf).argmin())
        changed[group[best]] = columns[best]
        return changed
    both = gain[:, None] + gain + step @ step.T
    fits = group[:, None] != group
    for row, left in zip(more, slack, strict=True):
        fits &= row[:, None] + row <= left
    first, second = divmod(int(np.where(fits, both, np.inf).argmin()), len(columns))
    if fits[first, second]:
        changed[group[[first, second]]] = columns[[first, second]]
    return changed


def _answer(
    problem: ChoiceProblem,
    factors: NDArray[np.float64],
    choice: tuple[int, ...] | None,
    bound: float,
    start: float,
    *,
    stopped: bool,
) -> ChoiceSolution:
    runtime = time.perf_counter() - start
    name = "interactions (Frank-Wolfe bound, local search)"
    if choice is None:
        # No plan and no proof that there is none: the heuristic gave up.
        status = Status.INFEASIBLE if bound == math.inf else Status.TIME_LIMIT
        return ChoiceSolution(status, None, math.nan, {}, bound, math.inf, runtime_s=runtime, solver=name)
    value = price_interactions(problem, factors, choice)
    bound = min(bound, value)
    gap = relative_gap(value, bound)
    status = Status.OPTIMAL if gap <= PROVEN_GAP else Status.FEASIBLE
    return ChoiceSolution(
        status=Status.TIME_LIMIT if stopped else status,
        choice=choice,
        value=value,
        usage=price(problem, choice)[1],
        lower_bound=bound,
        gap=gap,
        runtime_s=runtime,
        solver=name,
    )
