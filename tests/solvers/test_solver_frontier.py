"""The frontier against exhaustive search: plans on the convex hull, exact points between, monotone, resumable."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers import ChoiceProblem, SolverError, pareto, price, solve


def all_plans(problem, resource):
    """Return (usage, value) of every plan that masks and ties allow."""
    mask = problem.mask()
    groups = problem.groups()
    options = [np.flatnonzero(mask[list(g)].all(axis=0)).tolist() for g in groups]
    for pick in itertools.product(*options):
        choice = [0] * len(problem.items)
        for group, option in zip(groups, pick, strict=True):
            for item in group:
                choice[item] = option
        value, usage = price(problem, choice)
        yield usage[resource], value


def hull_vertices(points):
    """Return the vertices of the falling part of the lower convex hull, by brute force over slopes."""
    best = {}
    for usage, value in points:
        best[usage] = min(value, best.get(usage, np.inf))
    chain = []
    for usage, value in sorted(best.items()):
        if chain and value >= chain[-1][1]:
            continue
        while len(chain) > 1 and (chain[-1][1] - chain[-2][1]) * (usage - chain[-2][0]) >= (value - chain[-2][1]) * (
            chain[-1][0] - chain[-2][0]
        ):
            chain.pop()
        chain.append((usage, value))
    return chain


@settings(max_examples=60)
@given(data=st.data())
def test_one_resource_has_every_supported_plan_and_exact_points(choice_problems, data):
    problem = data.draw(choice_problems(most_items=4, most_resources=1, families=False))
    if not problem.usage:
        return
    frontier = pareto(problem, "r0", points=7)
    assert frontier.complete and frontier.resources == ("r0",)
    result = {(p.usage["r0"], round(p.value, 9)) for p in frontier.points}
    plans = list(all_plans(problem, "r0"))
    assert {(u, round(v, 9)) for u, v in hull_vertices(plans)} <= result
    for point in frontier.points:
        best = min(v for u, v in plans if u <= point.capacity["r0"] * (1 + 1e-12))
        assert point.value == pytest.approx(best, rel=1e-9, abs=1e-12)
        assert point.usage["r0"] <= point.capacity["r0"] * (1 + 1e-12) and point.gap <= 1e-6
    values = [p.value for p in frontier.points]
    assert values == sorted(values, reverse=True)


@settings(max_examples=15)
@given(data=st.data())
def test_other_rows_and_families_hold_on_the_frontier(choice_problems, data):
    problem = data.draw(choice_problems(most_items=3, most_options=3, slack=0.6))
    if len(problem.usage) < 2 or solve(replace(problem, capacity={"r1": problem.capacity["r1"]})).choice is None:
        return
    for point in pareto(problem, "r0", points=4).points:
        candidate = replace(problem, capacity={**problem.capacity, **point.capacity})
        assert point.value == pytest.approx(solve(candidate, "exhaustive").value, rel=1e-9, abs=1e-12)


def test_two_resources_give_a_monotone_grid_that_can_be_resumed():
    rng = np.random.default_rng(4)
    value = np.sort(10.0 ** rng.uniform(-4, 0, (5, 4)), axis=1)[:, ::-1]
    bytes_, seconds = np.sort(rng.integers(1, 40, (2, 5, 4)).astype(float), axis=2)
    problem = ChoiceProblem(
        tuple("abcde"), tuple("2348"), value, {"bytes": bytes_, "s": seconds[:, [1, 0, 3, 2]]}, {"bytes": 60.0}
    )
    seen = []
    whole = pareto(problem, ("bytes", "s"), points=16, on_point=seen.append)
    assert whole.complete and len(seen) == len(whole.points) > 8
    for a, b in itertools.combinations(whole.points, 2):
        if all(a.capacity[r] <= b.capacity[r] for r in whole.resources):
            assert b.value <= a.value
    for point in whole.points:
        exact = solve(replace(problem, capacity=point.capacity), "exhaustive")
        assert point.value == pytest.approx(exact.value, rel=1e-9)
    part = pareto(problem, ("bytes", "s"), points=16, time_limit_s=1e-6)
    assert not part.complete
    again = []
    resumed = pareto(problem, ("bytes", "s"), points=16, known=whole, on_point=again.append)
    assert again == [] and [p.value for p in resumed.points] == [p.value for p in whole.points]


def test_a_stopped_frontier_of_one_resource_resumes(ladder):
    stopped = pareto(ladder, "bytes", points=5, time_limit_s=1e-6)
    assert not stopped.complete and all(p.supported for p in stopped.points)
    whole = pareto(ladder, "bytes", points=5, known=stopped)
    assert whole.complete
    # The asked capacities 4, 10 and 16 are those of supported plans, which stand there already.
    assert [(p.capacity["bytes"], p.value, p.supported) for p in whole.points] == [
        (4, 14, True), (6, 9, True), (7, 9, False), (10, 5, True), (12, 3, True), (13, 3, False), (16, 0, True)
    ]  # fmt: skip


def test_illegal_frontiers(ladder):
    with pytest.raises(SolverError, match="'time' has no usage table. Resources: bytes"):  # noqa: RUF043
        pareto(ladder, "time")
    with pytest.raises(SolverError, match="Give one name or two different ones"):
        pareto(ladder, ("bytes", "bytes"))
    with pytest.raises(SolverError, match="points is 1"):
        pareto(ladder, "bytes", points=1)
    stuck = replace(ladder, pins={"a": "2", "b": "4"}, families=("x", "y", "z"), max_families=1)
    with pytest.raises(SolverError, match="no plan keeps the other rows"):
        pareto(stuck, "bytes")
