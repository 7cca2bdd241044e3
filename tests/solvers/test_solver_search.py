"""The reverse problem, shortlists and local search, each against exhaustive search."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers import (
    ChoiceProblem,
    SolverError,
    Status,
    least_usage,
    price,
    refine,
    solve,
    top_k,
    violations,
)  # fmt: skip


def feasible_plans(problem):
    plans = itertools.product(range(len(problem.options)), repeat=len(problem.items))
    return [plan for plan in plans if not violations(problem, plan)]


@settings(max_examples=80)
@given(data=st.data(), share=st.sampled_from([-0.1, 0.0, 0.3, 0.7, 1.0]))
def test_the_reverse_problem(choice_problems, data, share):
    """Least usage among plans of at most this value; infeasible exactly if no plan has it."""
    problem = data.draw(choice_problems(most_items=3, slack=0.7))
    if "r0" not in problem.usage:
        return
    free = replace(problem, capacity={name: c for name, c in problem.capacity.items() if name != "r0"})
    priced = [price(problem, plan) for plan in feasible_plans(free)]
    if not priced:
        return
    low, high = min(v for v, _ in priced), max(v for v, _ in priced)
    limit = low + share * (high - low) + 1e-9 * (abs(low) + abs(high))
    answer = least_usage(problem, "r0", limit)
    within = [usage["r0"] for value, usage in priced if value <= limit]
    if not within:
        assert answer.status is Status.INFEASIBLE
        assert answer.nearest_capacity["value"] == pytest.approx(low, rel=1e-6, abs=1e-9)
    else:
        assert answer.usage["r0"] == min(within) and answer.value <= limit + 1e-12
        assert (answer.value, answer.usage) == price(problem, answer.choice)


def test_the_reverse_problem_by_hand(ladder):
    assert least_usage(ladder, "bytes", 5.0).usage["bytes"] == 10.0
    with pytest.raises(SolverError, match="resource: 'time' has no usage table"):
        least_usage(ladder, "time", 5.0)
    with pytest.raises(SolverError, match="max_value is NaN"):
        least_usage(ladder, "bytes", math.nan)
    hidden = replace(ladder, usage={**ladder.usage, "value": ladder.value})
    assert least_usage(hidden, "bytes", 5.0).usage["value"] == 5.0


@settings(max_examples=40)
@given(data=st.data())
def test_a_shortlist_holds_the_best_different_plans(choice_problems, data):
    problem = data.draw(choice_problems(most_items=3, most_options=3, slack=0.7))
    values = sorted(price(problem, plan)[0] for plan in feasible_plans(problem))
    plans = top_k(problem, 4)
    assert len({plan.choice for plan in plans}) == len(plans) == min(4, len(values))
    assert [plan.value for plan in plans] == pytest.approx(values[: len(plans)], rel=1e-7, abs=1e-9)
    assert all(set(plan.usage) == set(problem.usage) for plan in plans)


def test_a_shortlist_within_a_distance_of_value_and_items(ladder):
    """Plans of 10 bytes: 5, 7, 8, 9, …; within 40 percent of 5 is 7; two items apart from (8, 2) is (4, 4)."""
    assert [plan.value for plan in top_k(ladder, 9, within=0.4)] == [5.0, 7.0]
    far = top_k(ladder, 9, distance=2)
    assert [plan.value for plan in far] == [5.0, 7.0, 9.0] and far[0].binding == ("bytes",)
    for wrong, message in (({"n": 0}, "n is 0"), ({"n": 1, "within": -1}, "within is -1"),
                           ({"n": 1, "distance": 3}, "distance is 3. Give 1 to 2")):  # fmt: skip
        with pytest.raises(SolverError, match=message):
            top_k(ladder, **wrong)


def _pairwise(problem, seed):
    """Return a loss with interactions, ½‖Σ s‖² + Σ v, which a table of individual scores cannot express."""
    factors = np.random.default_rng(seed).normal(size=(*problem.value.shape, 3))

    def loss(plan):
        total = factors[range(len(plan)), plan].sum(axis=0)
        return 0.5 * float(total @ total) + price(problem, plan)[0]

    return loss


def test_refinement_only_accepts_what_was_measured_to_be_better():
    rng = np.random.default_rng(0)
    usage = {"bytes": rng.integers(1, 9, (5, 3)).astype(float)}
    problem = ChoiceProblem(
        tuple("abcde"), tuple("xyz"), rng.random((5, 3)), usage, {"bytes": 24.0}, ties=(("a", "b"),)
    )
    loss = _pairwise(problem, 1)

    def around(plan):
        return [[loss((*plan[:i], o, *plan[i + 1 :])) for o in range(3)] for i in range(5)]

    start = solve(problem).choice
    result = refine(problem, start, around, loss, 200)
    losses = [measured for _, measured in result.history]
    assert result.exhausted and result.accepted > 0
    assert result.measured == min(losses) == loss(result.choice) < result.start == losses[0]
    assert all(violations(problem, plan) == () for plan, _ in result.history)
    assert len({plan for plan, _ in result.history}) == len(losses)


def test_refinement_stops_at_its_measurements_and_refuses_nonsense(ladder):
    calls = []
    result = refine(ladder, (2, 0), lambda _: -ladder.usage["bytes"] * [[-1], [1]], lambda p: calls.append(p) or 1.0, 1)
    assert len(calls) == 1 and not result.exhausted and result.choice == (2, 0)
    with pytest.raises(SolverError, match="the plan breaks bytes"):
        refine(ladder, (2, 2), lambda p: ladder.value, lambda p: 0.0, 5)
    with pytest.raises(SolverError, match="max_measurements is 0"):
        refine(ladder, (0, 0), lambda p: ladder.value, lambda p: 0.0, 0)
    with pytest.raises(SolverError, match=r"propose gave shape \[2\]"):
        refine(ladder, (0, 0), lambda p: [1.0, 2.0], lambda p: 0.0, 5)
