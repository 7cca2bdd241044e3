"""The master program of the cutting planes: both engines against the definition."""

from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.search.master import _ByHighs, _ByScipy

ENGINES = [_ByScipy, pytest.param(_ByHighs, marks=pytest.mark.skipif(not find_spec("highspy"), reason="needs HiGHS"))]


@pytest.mark.parametrize("engine", ENGINES)
def test_hand_arithmetic(engine):
    """Cuts 1 - λ and λ meet at ½; in a box of ¼ the rising one is the least."""
    program = engine(1)
    program.add(1.0, np.array([-1.0]))
    program.add(0.0, np.array([1.0]))
    for box, at in ((1.0, 0.5), (0.25, 0.25), (2.0, 0.5)):
        found, value = program.maximum(np.array([box]))
        assert found == pytest.approx([at], abs=1e-9) and value == pytest.approx(at, abs=1e-9)


@pytest.mark.skipif(not find_spec("highspy"), reason="needs HiGHS")
@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 12))
def test_both_engines_find_the_same_maximum_after_every_cut(seed, rows, count):
    """Going on from the last maximum, and with boxes that change, equals solving again."""
    random = np.random.default_rng(seed)
    warm, cold = _ByHighs(rows), _ByScipy(rows)
    cuts = []
    for _ in range(count):
        cuts.append((float(random.uniform(-1, 1)), random.normal(size=rows) * 10.0 ** random.integers(-2, 3)))
        warm.add(*cuts[-1])
        cold.add(*cuts[-1])
        box = 10.0 ** random.uniform(-2, 2, rows)
        values = []
        for program in (warm, cold):
            found, value = program.maximum(box)
            assert ((found >= 0) & (found <= box)).all()
            scale = max(1.0, *(abs(height) + abs(slope) @ box for height, slope in cuts))
            assert min(height + slope @ found for height, slope in cuts) == pytest.approx(value, abs=1e-9 * scale)
            values.append(value)
        assert values[0] == pytest.approx(values[1], abs=1e-9 * scale)
