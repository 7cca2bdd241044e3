"""A proof holds in exact rational arithmetic, whatever the range of the numbers."""

import itertools
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers import ChoiceProblem, ProblemError, Status, describe, pareto, price, solve, violations

USABLE = [name for name, (_, usable) in describe().items() if usable]
QUICK = [name for name in USABLE if name != "cbc"]


def exact_best(problem):
    """Return the exact value of the best plan in Fractions, over all plans; None if there is none."""
    best = None
    for plan in itertools.product(range(len(problem.options)), repeat=len(problem.items)):
        fits = all(
            limit == math.inf or sum(Fraction(problem.usage[name][i, o]) for i, o in enumerate(plan)) <= Fraction(limit)
            for name, limit in problem.capacity.items()
        )
        links = replace(problem, capacity={})
        if fits and not violations(links, plan):
            value = sum(Fraction(problem.value[i, o]) for i, o in enumerate(plan))
            best = value if best is None else min(best, value)
    return best


def check(problem, solution):
    """Status and bound agree with exact arithmetic, and nothing is left unproven."""
    best = exact_best(problem)
    if best is None:
        # A plan may exceed a capacity by 1e-12 of it, so that sums of floats can reach it.
        assert solution.status is Status.INFEASIBLE or violations(problem, solution.choice) == ()
        return
    plan = solution.choice
    value = sum(Fraction(problem.value[i, o]) for i, o in enumerate(plan))
    worth = sum(abs(Fraction(problem.value[i, o])) for i, o in enumerate(plan))
    assert solution.status is Status.OPTIMAL and violations(problem, plan) == ()
    assert (value - best) * 10**6 <= worth
    assert (Fraction(solution.lower_bound) - best) * 10**6 <= worth


@pytest.mark.parametrize("solver", USABLE)
@pytest.mark.parametrize("outlier", [1e2, 1e8, 1e13, 1e100, 1e300, -1e8, -1e20, -1e300])
def test_an_absurd_score_does_not_blur_the_others(solver, outlier):
    """A costs 1, B 1 + 1e-5, C is absurd and, if negative, infeasible: A for every item is optimal, by hand."""
    value = np.tile([1.0, 1 + 1e-5, outlier], (3, 1))
    usage = np.tile([10.0, 1.0, 0.0 if outlier > 0 else 2000.0], (3, 1))
    problem = ChoiceProblem(("a", "b", "c"), ("A", "B", "C"), value, {"bytes": usage}, {"bytes": 1000.0})
    solution = solve(problem, solver)
    assert solution.status is Status.OPTIMAL and solution.value == 3.0


@pytest.mark.parametrize("solver", QUICK)
def test_absurdly_good_options_that_no_plan_can_use(solver):
    """Each option of -1e20 fits alone, but no two together allow a plan; the best remaining plan has -3, not 1."""
    value = np.array([[1.0, -1.0, -1e20], [1.0, -1.0, -1e20], [1.0, -1.0, 1.0]])
    usage = {
        "r": np.array([[1.0, 2, 3], [1, 2, 4], [1, 2, 1]]),
        "s": np.array([[4.0, 3, 4], [4, 3, 4], [4, 3, 4]]),
    }
    problem = ChoiceProblem(tuple("abc"), tuple("xyz"), value, usage, {"r": 6.0, "s": 9.0})
    solution = solve(problem, solver)
    check(problem, solution)
    assert solution.value == -3.0


@pytest.mark.parametrize("solver", QUICK)
def test_values_of_tied_items_that_cancel(solver):
    """1e20 - 1e20 - 5 is -5 for a tie of three items, not 0."""
    problem = ChoiceProblem(
        tuple("abc"), ("x", "y"), np.array([[0.0, 1e20], [0.0, -5.0], [-1.0, -1e20]]), {}, {}, ties=(tuple("abc"),)
    )
    assert solve(problem, solver).choice == (1, 1, 1)


@st.composite
def torn(draw):
    """Problems of up to 3 items: scales from 1e-300 to 1e300 side by side, capacities that one plan just keeps."""
    items, options = draw(st.integers(1, 3)), draw(st.integers(2, 3))
    numbers = st.builds(
        lambda digit, power: digit * 10.0**power,
        st.integers(-9, 9),
        st.sampled_from([0, 0, 0, 0, -6, 6, 13, 20, -300, 299]),
    )
    amounts = st.builds(
        lambda digit, power: digit * 10.0**power, st.integers(0, 9), st.sampled_from([0, 0, 0, 6, -290, 299])
    )

    def table(entries):
        return np.array(
            draw(st.lists(st.lists(entries, min_size=options, max_size=options), min_size=items, max_size=items))
        )

    usage = {f"r{k}": table(amounts) for k in range(draw(st.integers(0, 2)))}
    plan = [draw(st.integers(0, options - 1)) for _ in range(items)]
    room = draw(st.sampled_from([1.0, 1.0, 1.5, math.inf]))
    capacity = {name: room * (math.fsum(t[range(items), plan]) or 1.0) for name, t in usage.items()}
    names, labels = tuple(map(str, range(items))), tuple(map(str, range(options)))
    ties = (names[:2],) if items > 1 and draw(st.booleans()) else ()
    families = draw(st.sampled_from([None, ("a", "b", "a")[:options]]))
    return ChoiceProblem(
        names, labels, table(numbers), usage, capacity, ties=ties, families=families,
        max_families=None if families is None else 1,
    )  # fmt: skip


@pytest.mark.parametrize("solver", QUICK)
@settings(max_examples=60)
@given(problem=torn())
def test_every_proof_holds_in_exact_arithmetic(solver, problem):
    solution = solve(problem, solver)
    if solver != "lagrangian" or solution.status is not Status.FEASIBLE:
        check(problem, solution)


def test_a_frontier_with_an_absurd_score_is_exact():
    """If rounding could hide a better plan, the point is solved again."""
    value = np.array([[1e13, 2.0, 1.0], [1e13, 2.0, 1.0], [3.0, 2.0, 1.0]])
    usage = np.array([[0.0, 1, 2], [0, 1, 2], [0, 1, 2]])
    problem = ChoiceProblem(tuple("abc"), tuple("xyz"), value, {"r": usage}, {"r": 6.0})
    for point in pareto(problem, "r", points=7).points:
        best = exact_best(replace(problem, capacity=point.capacity))
        assert Fraction(point.value) - best <= Fraction(point.value) / 10**6 and point.gap <= 1e-6
    huge = replace(problem, value=value * 1e280, usage={"r": usage * 1e-250}, capacity={"r": 6e-250})
    for point in pareto(huge, "r", points=7).points:
        assert price(huge, point.choice)[0] == point.value and point.gap <= 1e-6


def test_sums_that_overflow_are_refused_and_infinite_limits_are_not(ladder):
    with pytest.raises(
        ProblemError, match=r"item 'a', option '2': value is 1e\+308. Sums would overflow: give at most"
    ):
        replace(ladder, value=np.full((2, 3), 1e308))
    with pytest.raises(ProblemError, match=r"usage of 'bytes' is 1e\+308. Sums would overflow"):
        replace(ladder, usage={"bytes": np.full((2, 3), 1e308)})
    assert solve(replace(ladder, usage={"bytes": np.full((2, 3), 1e300)})).status is Status.INFEASIBLE
    assert solve(replace(ladder, capacity={"bytes": math.inf})).value == 0.0
    assert solve(replace(ladder, capacity={"bytes": -math.inf})).status is Status.INFEASIBLE
    masked = np.array([[True, True, False], [True, True, True]])
    absurd = replace(ladder, value=np.array([[1.0, 2, 1e308], [1, 2, 3]]), allowed=masked)
    assert price(absurd, (2, 0))[0] == 1e308
