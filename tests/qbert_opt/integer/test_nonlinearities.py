"""Every nonlinear function on every input that it can have."""

import numpy as np
import pytest

from qbert_opt.errors import UsageError
from qbert_opt.integer.builder import Grid
from qbert_opt.integer.errors import activation_error, evaluated, exponential_error
from qbert_opt.integer.nonlinearity import ACTIVATIONS, EXP_ONE, SCORE_TOP, nonlinearity

WAYS = ("table", "poly", "shift")


def largest_error(way, function, bits, span=8.0):
    """Largest error over 65,536 inputs, and half a unit of the result."""
    exact = ACTIVATIONS[function](np.linspace(-span, span, 65536))
    to = Grid.spanning(float(exact.min()), float(exact.max()), bits)
    return activation_error(way, function, (-span, span), to).largest, to.scale / 2


@pytest.mark.parametrize(
    ("way", "function", "bound"),
    [("poly", "gelu", 1.84e-2), ("poly", "tanh", 1.7e-3), ("shift", "gelu", 2.6e-2), ("shift", "tanh", 3.1e-2),
     ("table", "gelu", 5e-4), ("table", "tanh", 4e-4), ("table", "gelu_new", 5e-4)],
)  # fmt: skip
def test_activations_of_16_bits_are_as_close_as_their_papers_say(way, function, bound):
    error, half = largest_error(way, function, 16)
    assert error <= bound + half
    assert error > bound / 2, "the bound says nothing"


@pytest.mark.parametrize("function", ["gelu", "gelu_new", "tanh"])
def test_a_table_of_8_bits_adds_only_the_rounding_of_its_input(function):
    numbers = np.arange(-128, 128)
    scale = 4 / 128
    exact = ACTIVATIONS[function](numbers * scale)
    to = Grid.spanning(float(exact.min()), float(exact.max()), 8)
    way = nonlinearity("table")
    inputs = Grid.spanning(*way.useful_span(function, (-4.0, 127 * scale), to), 8)
    _, real = evaluated(numbers, scale, lambda b, x: way.activation(b, "f", function, x, (-4.0, 127 * scale), to))
    steepest = 1.13  # the largest slope of a GELU
    assert np.abs(real - exact).max() <= steepest * inputs.scale / 2 + to.scale / 2 + 1e-12


@pytest.mark.parametrize(("way", "absolute"), [("table", 5e-5), ("poly", 2.4e-3), ("shift", 4.5e-2)])
@pytest.mark.parametrize("largest", [0.5, 4.0, 30.0])
def test_exp_of_every_difference_of_scores(way, absolute, largest):
    grid = nonlinearity(way).score_grid(largest)
    below = np.arange(0, 2 * SCORE_TOP + 1)
    integers, real = evaluated(below, grid.scale, lambda b, x: nonlinearity(way).exponential(b, "f", x))
    assert integers.min() >= 0
    assert integers.max() <= EXP_ONE
    assert integers[0] >= EXP_ONE - 1
    assert np.abs(real - np.exp(-below * grid.scale)).max() <= absolute
    assert largest / grid.scale <= SCORE_TOP, "scores of the calibration set saturate"


@pytest.mark.parametrize("way", WAYS)
def test_exp_never_grows_with_the_distance_by_more_than_its_error(way):
    grid = nonlinearity(way).score_grid(10.0)
    integers, _ = evaluated(np.arange(65535), grid.scale, lambda b, x: nonlinearity(way).exponential(b, "f", x))
    assert np.diff(integers).max() <= {"table": 1, "poly": 0, "shift": 1}[way]


def test_newtons_root_is_the_floor_of_the_root():
    roots = np.concatenate([np.arange(1, 46341), [46340]])
    numbers = np.unique(np.concatenate([roots**2, roots**2 + 1, roots**2 - 1, [2**31 - 1], 2 ** np.arange(31)]))
    numbers = numbers[(numbers >= 1) & (numbers < 2**31)]
    for way in ("table", "poly"):
        integers, _ = evaluated(numbers, None, lambda b, x, way=way: nonlinearity(way).square_root(b, "f", x))
        exact = np.floor(np.sqrt(numbers.astype(np.float64))).astype(np.int64)  # exact below 2**52
        assert (integers == exact).all()


def test_ten_steps_from_65536_are_the_root_of_large_numbers_only():
    numbers = np.arange(10**6, 2**31, 99991)
    integers, _ = evaluated(numbers, None, lambda b, x: nonlinearity("shift").square_root(b, "f", x))
    assert (integers == np.floor(np.sqrt(numbers.astype(np.float64)))).all()
    small, _ = evaluated(np.arange(1, 100), None, lambda b, x: nonlinearity("shift").square_root(b, "f", x))
    assert small[0] == 64  # 2**16 halved ten times: stated, not hidden


@pytest.mark.parametrize(("way", "largest"), [("poly", 3000.0), ("shift", 40000.0)])
def test_scores_that_are_too_far_apart_are_refused_by_name(way, largest):
    chosen = nonlinearity(way)
    with pytest.raises(UsageError, match="table"):
        evaluated(np.arange(9), chosen.score_grid(largest).scale, lambda b, x: chosen.exponential(b, "f", x))


@pytest.mark.parametrize(("way", "score", "message"), [
    ("poly", 4e3, "`nonlinearity` poly: attention scores reach 4e.03; legal is up to 2.84e.03. Use table."),
    ("shift", 2e4, "`nonlinearity` shift: its inputs reach 2e.04; legal is up to 1.64e.04. Use table."),
])  # fmt: skip
def test_scores_too_large_for_a_way_are_refused(way, score, message):
    with pytest.raises(UsageError, match=message):
        exponential_error(way, score)
