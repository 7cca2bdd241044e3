"""Generated problems, shared by the solver tests."""

import numpy as np
import pytest
from hypothesis import strategies as st

from solvers import ChoiceProblem


@st.composite
def _choice_problems(draw, most_items=4, most_options=4, most_resources=2, links=True, families=True, slack=None):
    """Small problems with integer usage, values of any sign and size, masks, ties, pins and families."""
    items, options = draw(st.integers(1, most_items)), draw(st.integers(1, most_options))
    resources = draw(st.integers(0, most_resources))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.booleans()):
        value = rng.integers(-4, 5, (items, options)).astype(float)  # many ties
    else:
        value = rng.choice([-1.0, 1.0, 1.0, 1.0], (items, options)) * 10.0 ** rng.uniform(-6, 0, (items, options))
    usage = {f"r{k}": rng.integers(0, 10, (items, options)) * float(rng.choice([1, 1e6])) for k in range(resources)}
    allowed = rng.random((items, options)) < 0.85
    allowed[np.arange(items), rng.integers(0, options, items)] = True
    capacity = {}
    for name, table in usage.items():
        low = np.where(allowed, table, np.inf).min(axis=1).sum()
        high = np.where(allowed, table, 0).max(axis=1).sum()
        share = draw(st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0])) if slack is None else slack
        capacity[name] = float(np.floor(low + share * (high - low)))
    names = tuple(f"item{i}" for i in range(items))
    ties: tuple[tuple[str, ...], ...] = ()
    kinds, most = None, None
    if links:
        shared = np.flatnonzero(allowed[:2].all(axis=0))
        if items >= 2 and len(shared) and draw(st.booleans()):
            ties = (names[:2],)
        if families and draw(st.booleans()):
            kinds = tuple(rng.choice(["a", "b", "c", None], options).tolist())
            most = draw(st.integers(1, 2))
    return ChoiceProblem(
        names, tuple(f"option{o}" for o in range(options)), value, usage, capacity, allowed, ties,
        families=kinds, max_families=most,
    )  # fmt: skip


@pytest.fixture(scope="session")
def choice_problems():
    """The strategy, for `data.draw(choice_problems(...))`."""
    return _choice_problems


@pytest.fixture
def ladder() -> ChoiceProblem:
    """Two matrices, three bit widths; by hand: 10 bytes buy (8, 2) for 5, (4, 4) for 7 or (2, 8) for 9."""
    return ChoiceProblem(
        ("a", "b"), ("2", "4", "8"), np.array([[9.0, 4.0, 0.0], [5.0, 3.0, 0.0]]),
        {"bytes": np.array([[2.0, 4.0, 8.0], [2.0, 4.0, 8.0]])}, {"bytes": 10.0},
    )  # fmt: skip
