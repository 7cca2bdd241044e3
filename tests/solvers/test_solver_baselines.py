"""Baselines of a solution, explanations of it, and residency as an option."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers import ChoiceProblem, SolverError, explain, price, random_plans, solve, uniform_plans, violations


def test_uniform_plans_are_priced_and_those_that_fit_come_first(ladder):
    """10 bytes: uniform 4 (8 bytes, 7) fits, then uniform 2 (4 bytes, 14); uniform 8 is better but too large."""
    names = [(plan.name, plan.value, plan.broken) for plan in uniform_plans(ladder)]
    assert names == [("uniform 4", 7.0, ()), ("uniform 2", 14.0, ()), ("uniform 8", 0.0, ("bytes",))]


def test_a_masked_item_takes_the_option_nearest_in_usage(ladder):
    masked = replace(ladder, allowed=np.array([[True, True, True], [True, False, True]]), pins={})
    plan = next(plan for plan in uniform_plans(masked) if plan.name == "uniform 4")
    assert plan.choice == (1, 0)
    tied = replace(ladder, ties=(("a", "b"),), pins={"b": "8"})
    assert [plan.choice for plan in uniform_plans(tied)] == [(2, 2)]


@settings(max_examples=60)
@given(data=st.data())
def test_no_feasible_baseline_beats_the_solution(choice_problems, data):
    problem = data.draw(choice_problems(slack=0.6))
    answer = solve(problem)
    rivals = [*uniform_plans(problem), *random_plans(problem, 5, seed=1)]
    for rival in rivals:
        assert (rival.value, rival.usage) == price(problem, rival.choice)
        assert rival.broken == violations(problem, rival.choice)
        if not rival.broken:
            assert rival.value >= answer.value - 1e-9 * np.abs(problem.value[problem.allowed]).sum()


def test_random_plans_fill_the_capacity_and_repeat_with_their_seed():
    rng = np.random.default_rng(0)
    usage = np.sort(rng.integers(1, 100, (30, 6)), axis=1).astype(float)
    problem = ChoiceProblem(tuple(map(str, range(30))), tuple("abcdef"), -usage, {"bytes": usage}, {"bytes": 1500.0})
    plans = random_plans(problem, 5)
    assert len({plan.choice for plan in plans}) == 5
    assert all(1400 <= plan.usage["bytes"] <= 1500 for plan in plans)
    assert [plan.choice for plan in plans] == [plan.choice for plan in random_plans(problem, 5)]
    assert random_plans(replace(problem, capacity={"bytes": 1.0}), 5) == ()
    with pytest.raises(SolverError, match="count is -1"):
        random_plans(problem, -1)


def test_explanations_by_hand(ladder):
    """Plan (8, 2) of 10 bytes: b at 4 bits gains 2 but needs 2 more bytes; a at 4 bits loses 4 and frees 4."""
    a, b = explain(ladder, (2, 0))
    assert (a.item, a.option, a.better) == ("a", "8", None)
    assert (a.worse.option, a.worse.value, a.worse.usage, a.worse.missing) == ("4", 4.0, {"bytes": -4.0}, {})
    assert (b.better.option, b.better.value) == ("4", -2.0)
    assert b.better.missing["bytes"] == pytest.approx(2.0) and b.worse is None
    tied = explain(replace(ladder, ties=(("a", "b"),)), (1, 1))
    assert tied[0].better.value == tied[1].better.value == -7.0


@settings(max_examples=40)
@given(data=st.data())
def test_in_an_optimal_plan_no_better_step_fits(choice_problems, data):
    problem = data.draw(choice_problems(families=False, slack=0.5))
    answer = solve(problem)
    if answer.choice is not None:
        assert all(r.better is None or r.better.missing for r in explain(problem, answer.choice))


def test_residency_and_bits_are_one_decision():
    """An option may include residency: the scratchpad of 10 holds b at 4 bits, so only a is streamed; by hand."""
    options = ("4 resident", "4 streamed", "8 resident", "8 streamed")
    value = np.array([[1.0, 1, 0, 0], [5, 5, 0, 0]])
    scratchpad = np.array([[8.0, 0, 16, 0], [6, 0, 12, 0]])
    traffic = np.array([[0.0, 8, 0, 16], [0, 6, 0, 12]])
    problem = ChoiceProblem(
        ("a", "b"), options, value, {"scratchpad": scratchpad, "traffic": traffic},
        {"scratchpad": 12.0, "traffic": 8.0},
    )  # fmt: skip
    answer = solve(problem)
    assert [options[o] for o in answer.choice] == ["4 streamed", "8 resident"] and answer.value == 1.0
