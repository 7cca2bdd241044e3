"""Shadow prices, ranges and the reasons for infeasibility."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers import ChoiceProblem, SolverError, Status, capacity_range, shadow_price, solve


def test_shadow_price_is_the_value_of_one_more_step(ladder):
    """10 bytes have value 5, 12 bytes (8, 4) value 3, 16 bytes value 0."""
    solution = solve(ladder)
    assert shadow_price(ladder, solution, "bytes", 2.0) == 2.0
    assert shadow_price(ladder, solution, "bytes", 6.0) == 5.0
    assert shadow_price(ladder, solution, "bytes", 1.0, solver="milp") == 0.0


def test_shadow_price_needs_a_plan_a_limit_and_a_step(ladder):
    solution = solve(ladder)
    with pytest.raises(SolverError, match=r"'time' has no capacity\. Limited resources: bytes"):
        shadow_price(ladder, solution, "time", 1.0)
    with pytest.raises(SolverError, match="step is 0"):
        shadow_price(ladder, solution, "bytes", 0)
    with pytest.raises(SolverError, match="the solution has no plan"):
        shadow_price(ladder, solve(replace(ladder, capacity={"bytes": 1.0})), "bytes", 1.0)


def test_capacity_range_by_hand(ladder):
    assert capacity_range(ladder, "bytes") == (4.0, 16.0)
    assert capacity_range(replace(ladder, pins={"a": "4"}, ties=(("a", "b"),)), "bytes") == (8.0, 8.0)
    with pytest.raises(SolverError, match=r"resource: 'time' has no usage table\. Resources: bytes"):
        capacity_range(ladder, "time")


def test_capacity_range_with_conflicting_links(ladder):
    stuck = replace(ladder, pins={"a": "2", "b": "4"}, families=("x", "y", "z"), max_families=1)
    with pytest.raises(SolverError, match="pins and max_families leave no plan"):
        capacity_range(stuck, "bytes")
    assert solve(stuck).conflicts == ("pins", "max_families")
    assert solve(stuck).nearest_capacity == {}


@settings(max_examples=40)
@given(data=st.data())
def test_nearest_capacities_are_feasible_and_least(choice_problems, data):
    """Raising one capacity to its nearest value allows a plan (if the others do); slightly less does not."""
    problem = data.draw(choice_problems(slack=-0.1))
    solution = solve(problem, "exhaustive")
    if solution.status is not Status.INFEASIBLE:
        return
    assert solution.conflicts
    for name, least in solution.nearest_capacity.items():
        enough = replace(problem, capacity={**problem.capacity, name: least})
        if solve(enough, "exhaustive").choice is None:
            enough = replace(problem, capacity={name: least})
        assert solve(enough, "exhaustive").choice is not None
        short = replace(enough, capacity={**enough.capacity, name: least - 1})
        assert solve(short, "exhaustive").choice is None


def test_conflicts_are_minimal(ladder):
    """Harmless pins are not named, and neither is a second capacity that holds."""
    tables = {"bytes": ladder.usage["bytes"], "time": 16 - ladder.usage["bytes"]}
    both = replace(ladder, usage=tables, capacity={"bytes": 10.0, "time": 20.0})
    assert solve(both).conflicts == ("bytes", "time")
    assert solve(both).nearest_capacity == {"bytes": 12.0, "time": 22.0}
    pinned = replace(ladder, capacity={"bytes": 6.0}, pins={"a": "8"})
    assert solve(pinned).conflicts == ("pins", "bytes")
    assert solve(replace(ladder, capacity={"bytes": 3.0}, pins={"a": "8"})).conflicts == ("bytes",)


def test_binding_names_the_only_capacity_in_the_way():
    problem = ChoiceProblem(
        ("a",), ("small", "large"), np.array([[1.0, 0.0]]),
        {"bytes": np.array([[1.0, 3.0]]), "time": np.array([[1.0, 2.0]])}, {"bytes": 2.0, "time": 9.0},
    )  # fmt: skip
    assert solve(problem).binding == ("bytes",)
    assert solve(replace(problem, capacity={"bytes": 2.0, "time": 1.0})).binding == ("bytes", "time")
    assert solve(replace(problem, capacity={"bytes": 3.0, "time": 9.0})).binding == ()
