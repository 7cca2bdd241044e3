"""A contradictory problem is rejected; the message names the item, the option and the fix."""

from dataclasses import replace

import numpy as np
import pytest

from solvers import ChoiceProblem, ProblemError, SolverError, price, violations

BYTES = np.array([[2.0, 4.0, 8.0], [2.0, 4.0, 8.0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"items": ()}, "items: is empty"),
        ({"items": ("a", "a")}, "items: 'a' appears twice"),
        ({"value": np.zeros((2, 2))}, r"value: has shape \[2, 2\], but there are 2 items and 3 options"),
        ({"value": np.array([[1, np.nan, 1], [1, 1, 1]])}, "item 'a', option '4': value is nan"),
        ({"value": np.array([[1, 1, 1], [1, 1, np.inf]])}, "item 'b', option '8': value is inf"),
        ({"usage": {"bytes": -BYTES}}, "item 'a', option '2': usage of 'bytes' is -2.0"),
        ({"usage": {"bytes": BYTES * np.nan}}, "item 'a', option '2': usage of 'bytes' is nan"),
        ({"capacity": {"time": 1.0}}, "capacity of 'time': has no usage table. Resources .*: bytes"),
        ({"capacity": {"bytes": np.nan}}, "capacity of 'bytes': is NaN"),
        ({"tie_break": "time"}, "tie_break: 'time' is not a resource"),
        ({"allowed": np.array([[True] * 3, [False] * 3])}, "item 'b': every option is masked"),
        ({"families": ("x",)}, "families: 1 entries for 3 options"),
        ({"max_families": 1}, "max_families: needs families"),
        ({"max_families": 0, "families": ("x", "x", "y")}, "max_families: is 0"),
        ({"pins": {"c": "2"}}, "pins: 'c' is not an item"),
        ({"ties": (("a", "c"),)}, "ties: 'c' is not an item"),
        ({"pins": {"a": "3"}}, "pins: item 'a' is pinned to '3', which is not an option. Options: 2, 4, 8"),
        (
            {"pins": {"a": "2"}, "allowed": np.array([[False, True, True], [True] * 3])},
            "'a' is pinned to '2', which is masked",
        ),
        ({"pins": {"a": "2", "b": "4"}, "ties": (("a", "b"),)}, "items 'a', 'b' have no option in common"),
    ],
)  # fmt: skip
def test_a_contradiction_is_rejected_with_its_place(ladder, change, message):
    with pytest.raises(ProblemError, match=message):
        replace(ladder, **change)


def test_masked_entries_may_be_anything():
    """A masked option may be NaN, infinite or negative, because it is never read."""
    allowed = np.array([[True, False], [True, False]])
    bad = np.array([[1.0, np.nan], [1.0, np.inf]])
    problem = ChoiceProblem(("a", "b"), ("x", "y"), bad, {"r": np.array([[1, -1], [1, np.nan]])}, {"r": 2}, allowed)
    assert price(problem, (0, 0)) == (2.0, {"r": 2.0})


def test_a_problem_keeps_its_own_read_only_tables(ladder):
    table = np.array(BYTES)
    problem = replace(ladder, usage={"bytes": table})
    table[:] = 0
    assert problem.usage["bytes"][0, 0] == 2
    with pytest.raises(ValueError, match="read-only"):
        problem.value[0, 0] = 1


def test_overlapping_ties_join_and_keep_the_order_of_items():
    problem = ChoiceProblem(tuple("abcde"), ("x",), np.zeros((5, 1)), {}, {}, ties=(("d", "b"), ("e", "d"), ("c",)))
    assert problem.groups() == ((0,), (1, 3, 4), (2,))


def test_price_is_exact_and_checks_the_plan(ladder):
    many = ChoiceProblem(tuple(map(str, range(10))), ("x",), np.full((10, 1), 0.1), {}, {})
    assert price(many, (0,) * 10)[0] == 1.0
    with pytest.raises(SolverError, match="needs 2 option indices from 0 to 2"):
        price(ladder, (0,))
    with pytest.raises(SolverError, match="needs 2 option indices"):
        price(ladder, (0, 3))


def test_violations_names_every_broken_row(ladder):
    problem = replace(
        ladder, allowed=np.array([[True] * 3, [True, True, False]]), pins={"a": "2"}, ties=(("a", "b"),),
        families=("low", "mid", "high"), max_families=1,
    )  # fmt: skip
    assert violations(problem, (1, 2)) == ("bytes", "allowed", "pins", "ties", "max_families")
    assert violations(problem, (0, 0)) == ()
