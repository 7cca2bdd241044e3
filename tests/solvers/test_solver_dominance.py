"""Dominance among partial plans, against comparing every pair."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from solvers.search.dominance import undominated


def beaten(usage, cost, kept):
    """Whether each plan is dominated by one of those kept that is not itself, bool [S]."""
    table = np.vstack([usage, cost])
    no_more = (table[:, kept, None] <= table[:, None, :]).all(axis=0)
    no_more[np.arange(len(kept)), kept] = False
    return no_more.any(axis=0)


@st.composite
def plans(draw, rows):
    """Plans with many ties: few levels of usage and of cost."""
    count, levels, seed = draw(st.integers(1, 1200)), draw(st.integers(1, 400)), draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    usage, cost = generator.integers(0, levels, (rows, count)), generator.integers(0, levels, count)
    return usage.astype(float), cost.astype(float)


@pytest.mark.parametrize("rows", [0, 1, 2])
@given(data=st.data())
def test_exactly_the_dominated_ones_are_left_out(rows, data):
    usage, cost = data.draw(plans(rows))
    kept = undominated(usage, cost)
    assert not beaten(usage, cost, kept)[kept].any()  # of equal plans one is kept
    assert beaten(usage, cost, kept).sum() == len(cost) - len(kept)


@given(data=st.data())
def test_with_three_rows_none_is_left_out_without_a_rival_that_is_kept(data):
    usage, cost = data.draw(plans(3))
    kept = undominated(usage, cost)
    left_out = np.setdiff1d(np.arange(len(cost)), kept)
    assert beaten(usage, cost, kept)[left_out].all()


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_the_cheapest_come_first(rows):
    generator = np.random.default_rng(rows)
    usage, cost = generator.random((rows, 700)), generator.random(700)
    kept = undominated(usage, cost)
    assert (np.diff(cost[kept]) >= 0).all()
    assert kept[0] == cost.argmin()
