"""Elementary operations of nonlinear functions, counted by hand."""

import numpy as np
import pytest

from hwmodels import IntegerWork
from qbert_opt.integer.builder import Builder, Grid
from qbert_opt.integer.errors import usual_error
from qbert_opt.integer.operations import Linear, Value
from qbert_opt.integer.program import Output
from qbert_opt.integer.work import activation_work, norm_work, program_work, softmax_work

TOKENS = 8


def built(build):
    """A program over 8 numbers, and its work per number."""
    b = Builder((Value("x", ("batch", "tokens"), 0, 1000, 1.0),), TOKENS)
    result = build(b, b.values["x"])
    return program_work(b.finish((Output("y", result.name),)), TOKENS, TOKENS)


@pytest.mark.parametrize(("build", "wanted"), [
    (lambda b, x: b.binary("add", "y", x, x), (0, 1, 0, 0)),
    (lambda b, x: b.binary("multiply", "y", x, x), (1, 0, 0, 0)),
    (lambda b, x: b.binary("multiply", "y", x, 7), (1, 0, 0, 0)),
    (lambda b, x: b.binary("multiply", "y", x, -16), (0, 1, 0, 0)),
    (lambda b, x: b.binary("divide", "y", x, 16), (0, 1, 0, 0)),
    (lambda b, x: b.binary("remainder", "y", x, 16), (0, 1, 0, 0)),
    (lambda b, x: b.binary("divide", "y", x, 10), (1, 1, 0, 0)),
    (lambda b, x: b.binary("remainder", "y", x, 10), (2, 2, 0, 0)),
    (lambda b, x: b.binary("divide", "y", 5, b.binary("maximum", "z", x, 1)), (0, 1, 0, 1)),
    (lambda b, x: b.shift("y", x, 3), (0, 1, 0, 0)),
    (lambda b, x: b.saturate("y", x, 0, 9), (0, 2, 0, 0)),
    (lambda b, x: b.saturate("y", x, 0, 9, 2), (0, 4, 0, 0)),
    (lambda b, x: b.rescale("y", x, 0.3, Grid(1.0, -128, 127)), (1, 4, 0, 0)),
    (lambda b, x: b.rescale("y", x, 0.3, Grid(1.0, -128, 127, 5)), (1, 5, 0, 0)),
    (lambda b, x: b.lookup("y", np.zeros(1001, np.int16), x), (0, 0, 1, 0)),
    (lambda b, x: b.lookup("y", np.zeros(1002, np.int16), b.binary("add", "z", x, 1)), (0, 2, 1, 0)),
    (lambda b, x: b.reduce("sum", "y", x), (0, 1, 0, 0)),  # 8 additions, shared by 8 numbers
])  # fmt: skip
def test_single_operations(build, wanted):
    work = built(build)
    assert (work.multiplies, work.additions, work.table_reads, work.divisions) == pytest.approx(wanted)


def test_what_a_row_has_once_is_shared_out():
    """Five steps of a root for 8 numbers, 3 additions each and 3 to start; the sum has 8 additions, the clip 1."""

    def root(b, x):
        from qbert_opt.integer.nonlinearity import nonlinearity

        return nonlinearity("table").square_root(b, "y", b.binary("maximum", "some", b.reduce("sum", "total", x), 1))

    assert built(root) == IntegerWork(additions=(8 + 1 + 18) / 8, divisions=5 / 8)


def test_tables_of_each_way():
    """GELU by table: 256 entries of 16 bits; at 16 bits start and step of 256 intervals, 32 bits each; exp 2 x 256."""
    assert activation_work("table", 8).table_bytes == 512 and activation_work("table", 8).table_reads == 1
    assert activation_work("table", 16).table_bytes == 2048 and activation_work("table", 16).table_reads == 2
    assert softmax_work("table", 128).table_bytes == 2048 and softmax_work("table", 128).table_reads == 2
    for way in ("poly", "shift"):
        assert activation_work(way, 8).table_bytes == softmax_work(way, 128).table_bytes == 0


def test_ways_differ_as_their_papers_say():
    """Softmax divides once an element; the exp of shifts multiplies nothing; a LayerNorm divides once a row."""
    for way in ("table", "poly", "shift"):
        assert softmax_work(way, 128).divisions == 1
        assert norm_work(way, 64).divisions == pytest.approx((11 if way == "shift" else 6) / 64)
    assert softmax_work("shift", 128).multiplies < softmax_work("table", 128).multiplies
    assert softmax_work("table", 128).multiplies < softmax_work("poly", 128).multiplies


def test_usual_errors_are_those_of_the_papers():
    """Exp 1.9e-3 and GELU 1.84e-2 by polynomials, 4.4e-2 and 2.6e-2 by shifts; the results have 16 bits."""
    assert usual_error("softmax", "poly").largest == pytest.approx(1.99e-3, rel=0.02)
    assert usual_error("activation", "poly").largest == pytest.approx(1.84e-2, rel=0.01)
    assert usual_error("softmax", "shift").largest == pytest.approx(4.41e-2, rel=0.01)
    assert usual_error("activation", "shift").largest == pytest.approx(2.6e-2, rel=0.01)
    assert usual_error("softmax", "table").largest < 1e-4 and usual_error("activation", "table").largest < 1e-3


def test_a_matrix_product_is_no_function():
    b = Builder((Value("x", ("batch", "tokens", 4), 0, 9, 1.0),), TOKENS)
    b.constants["w"] = np.ones((2, 4), np.int8)
    b.emit(Linear, "y", ("batch", "tokens", 2), x="x", weights="w")
    with pytest.raises(TypeError, match="Linear is not an operation of a nonlinear function"):
        program_work(b.finish((Output("y", "y"),)), TOKENS, TOKENS)
