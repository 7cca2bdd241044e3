"""Single operations: rounding, requantization and intervals, against exact fractions and worst cases."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qbert_opt.errors import UsageError
from qbert_opt.integer.builder import Builder, Grid, dyadic
from qbert_opt.integer.intervals import OverflowFound, check_intervals
from qbert_opt.integer.narrow import NarrowExecutor
from qbert_opt.integer.operations import (
    INT32,
    PRODUCT_LIMIT,
    Embed,
    Linear,
    Operation,
    Relative,
    Requantize,
    SquareRoot,
    Value,
    width,
)
from qbert_opt.integer.program import Output, Program
from qbert_opt.integer.reference import Reference, round_shift

int32 = st.integers(-INT32 - 1, INT32)
multipliers = st.integers(-INT32, INT32)
ints = st.integers(-(2**20), 2**20)


def half_up(number):
    """The nearest integer, the greater one in the middle."""
    return math.floor(number + Fraction(1, 2))


@given(st.integers(-(2**61), 2**61), st.integers(0, 61))
def test_rounding_shifts_are_half_up_for_negatives_too(a, shift):
    found = round_shift(np.array([a]), shift)
    assert int(found[0]) == half_up(Fraction(a, 2**shift))


@pytest.mark.parametrize(("a", "rounded"), [(-3, -1), (-2, -1), (-1, 0), (0, 0), (1, 1), (2, 1), (3, 2)])
def test_halves_go_up(a, rounded):
    assert int(round_shift(np.array([a]), 1)[0]) == rounded


def both(build, inputs, low, high):
    """The result of one operation in both executors, and its value."""
    x = Value("x", ("batch", "tokens"), low, high, 1.0)
    builder = Builder((x,), inputs.shape[1])
    y = build(builder, x)
    program = builder.finish((Output("y", y.name),))
    wide = Reference(program).run({"x": inputs})[y.name]
    narrow = NarrowExecutor(program).run({"x": inputs})[y.name]
    assert np.array_equal(wide, narrow)
    return wide, y


@settings(max_examples=300)
@given(st.lists(int32, min_size=1, max_size=5), multipliers, st.integers(0, 61), st.integers(-300, 300), ints, ints)
def test_requantization_is_the_exact_product_rounded_and_saturated(numbers, m, shift, zero, one_end, other_end):
    low, high = sorted((one_end, other_end))

    def build(builder, x):
        builder.constant("m", np.array(m, np.int32))
        return builder.emit(Requantize, "y", x.shape, zero=zero, bounds=(low, high), a="x", multiplier="m", shift=shift)

    inputs = np.array([numbers])
    if (INT32 + 1) * abs(m) + (1 << shift >> 1) >= PRODUCT_LIMIT:
        with pytest.raises(OverflowFound, match="62 bits"):
            both(build, inputs, -INT32 - 1, INT32)
        return
    found, _ = both(build, inputs, -INT32 - 1, INT32)
    exact = [min(max(half_up(Fraction(a * m, 2**shift)) + zero, low), high) for a in numbers]
    assert found[0].tolist() == exact


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=4), st.integers(0, INT32))
def test_a_dyadic_factor_is_as_exact_as_its_bits(ratios, largest):
    top = max(map(abs, ratios))
    if top < 2.0**-30:
        return
    m, shift = dyadic(np.array(ratios), largest, "x")
    assert 0 <= shift <= 62
    assert np.abs(m.astype(object)).max() * max(largest, 1) + (1 << shift >> 1) < PRODUCT_LIMIT
    off = np.abs(np.array(ratios) - m * 2.0**-shift).max()
    assert off <= 2.0**-29 * top  # two bits may be given up for the product


@pytest.mark.parametrize("ratio", [0.0, 2.0**31, 1e300, float("inf"), float("nan")])
def test_a_scale_that_no_multiplier_holds_is_refused_by_name(ratio):
    with pytest.raises(UsageError, match="layer: its scale is"):
        dyadic(ratio, 1, "layer")


@pytest.mark.parametrize(("low", "high", "bits"), [(0, 0, 1), (-1, 0, 1), (0, 1, 2), (-128, 127, 8), (-129, 0, 9),
                                                   (0, 128, 9), (-(2**31), 2**31 - 1, 32)])  # fmt: skip
def test_widths_are_those_of_twos_complement(low, high, bits):
    assert width(low, high) == bits


FUNCTIONS = ("add", "subtract", "multiply", "maximum", "minimum", "divide", "remainder")


@settings(max_examples=300)
@given(st.sampled_from(FUNCTIONS), st.tuples(ints, ints), st.integers(-2000, 2000), st.data())
def test_arithmetic_stays_in_its_interval(function, ends, b, data):
    low, high = sorted(ends)
    if function in ("divide", "remainder"):
        low, high, b = abs(low), abs(low) + high - low, abs(b) + 1
    numbers = data.draw(st.lists(st.integers(low, high), min_size=1, max_size=4))
    found, value = both(
        lambda builder, x: builder.binary(function, "y", x, b), np.array([[low, high, *numbers]]), low, high
    )
    assert value.low <= found.min() and found.max() <= value.high
    if function not in ("divide", "remainder"):
        assert {value.low, value.high} == {found.min(), found.max()}, "the interval is wider than its ends"


@given(st.tuples(int32, int32), st.integers(0, 31))
def test_shifts_round_down_and_stay_in_their_interval(ends, by):
    low, high = sorted(ends)
    found, value = both(lambda builder, x: builder.shift("y", x, by), np.array([[low, high]]), low, high)
    assert found[0].tolist() == [math.floor(Fraction(low, 2**by)), math.floor(Fraction(high, 2**by))]
    assert (value.low, value.high) == (found.min(), found.max())


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 4]), st.booleans(), st.booleans(), st.integers(0, 9))
def test_the_worst_input_of_a_product_reaches_its_interval_and_no_more(seed, groups, factored, summed, shift):
    generator = np.random.default_rng(seed)
    rows, columns, low, high = 6, 16, -128, int(generator.integers(0, 128))
    weights = generator.integers(-8, 8, (rows, columns)).astype(np.int8)
    factors = generator.integers(1, 50, (rows, groups)).astype(np.int32) if factored else None
    sums = generator.integers(-20, 20, (rows, groups)).astype(np.int32) if summed else None
    bias = generator.integers(-1000, 1000, rows).astype(np.int32)
    if factors is None and sums is None:
        groups = 1
    expanded = (1 if factors is None else np.repeat(factors, columns // groups, 1)) * weights.astype(int)
    expanded = expanded + (0 if sums is None else np.repeat(sums, columns // groups, 1))
    worst = np.concatenate([np.where(expanded > 0, high, low), np.where(expanded > 0, low, high)])

    x = Value("x", ("batch", "tokens", columns), low, high, 1.0)
    builder = Builder((x,), len(worst))
    names = {"weights": weights, "factors": factors, "sums": sums, "bias": bias}
    fields = {part: builder.constant(part, array) for part, array in names.items() if array is not None}
    y = builder.emit(Linear, "y", (*x.shape[:-1], rows), x="x", shift=shift, **fields)
    program = builder.finish((Output("y", "y"),))
    found = Reference(program).run({"x": worst[None]})["y"]
    assert (found.min(), found.max()) == (y.low, y.high)
    parts = np.einsum("tgc,rgc->trg", *(array.reshape(len(array), groups, -1) for array in (worst, expanded)))
    exact = [[sum(half_up(Fraction(int(part), 2**shift)) for part in row) for row in token] for token in parts]
    assert np.array_equal(found[0], np.array(exact) + bias)
    assert np.array_equal(NarrowExecutor(program).run({"x": worst[None]})["y"], found)


def test_a_product_that_could_overflow_is_refused_though_its_result_fits():
    """Partial sums count: the positive and the negative half of a row cancel, but not in every order."""
    x = Value("x", ("batch", "tokens", 2048), 0, 32767, 1.0)
    builder = Builder((x,), 1)
    builder.constant("w", np.tile(np.array([127, -127], np.int8), 1024)[None])
    with pytest.raises(OverflowFound, match=r"y: adds up numbers .* 32 bits"):
        builder.emit(Linear, "y", ("batch", "tokens", 1), x="x", weights="w")


@pytest.mark.parametrize(("factor", "shift", "message"), [
    (2**10, 0, "y: adds up numbers"), (2**10, 9, None), (2**31 - 1, 40, "y: a product of"), (1, 63, "y: a product of"),
])  # fmt: skip
def test_a_group_has_64_bits_before_its_shift_only(factor, shift, message):
    """A dot product of 31 bits times a factor of 31 fits 62; with the sum of the inputs times another it does not."""
    x = Value("x", ("batch", "tokens", 2048), -32768, 32767, 1.0)
    builder = Builder((x,), 1)
    builder.constant("w", np.full((1, 2048), 15 if message is None else 31, np.int8))
    builder.constant("k", np.full((1, 1), factor, np.int32))
    fields = {"x": "x", "weights": "w", "factors": "k", "shift": shift} | ({"sums": "k"} if message else {})
    if message is None:
        y = builder.emit(Linear, "y", ("batch", "tokens", 1), **fields)
        assert y.low == -15 * 2048 * 2**15 * 2
        worst = np.full((1, 1, 2048), -32768)
        for executor in (Reference, NarrowExecutor):
            assert executor(builder.finish((Output("y", "y"),))).run({"x": worst})["y"].item() == y.low
    else:
        with pytest.raises(OverflowFound, match=message):
            builder.emit(Linear, "y", ("batch", "tokens", 1), **fields)


def test_a_table_whose_products_overflow_is_refused_though_its_offsets_bring_them_back():
    index = Value("i", ("batch", "tokens"), 0, 0, 1.0)
    builder = Builder((index,), 1)
    builder.constant("codes", np.full((1, 4), 127, np.int8))
    builder.constant("factors", np.full((1, 1), 2**25, np.int32))
    builder.constant("offsets", np.full((1, 1), -(2**31), np.int32))
    with pytest.raises(OverflowFound, match="y: multiplies to"):
        builder.emit(Embed, "y", ("batch", "tokens", 4), codes="codes", factors="factors", offsets="offsets",
                     index="i", shift=2)  # fmt: skip


@pytest.mark.parametrize("high", [4, 2**31 - 1])
def test_rows_outside_a_table_are_refused(high):
    index = Value("i", ("batch", "tokens"), 0, high, 1.0)
    builder = Builder((index,), 1)
    builder.constant("codes", np.ones((4, 4), np.int8))
    ones = builder.constant("ones", np.ones((4, 1), np.int32))
    with pytest.raises(OverflowFound, match=f"y: reads rows 0 to {high} of a table of 4"):
        builder.emit(Embed, "y", (*index.shape, 4), codes="codes", factors=ones, offsets=ones, index="i", shift=0)


def test_distances_of_another_length_are_refused():
    builder = Builder((Value("input_ids", ("batch", "tokens"), 0, 9, 1.0),), 5)
    builder.constant("table", np.ones((2, 7), np.int32))
    with pytest.raises(OverflowFound, match="y: has 7 distances for 5 tokens"):
        builder.emit(Relative, "y", (2, "tokens", "tokens"), table="table")


@pytest.mark.parametrize(("start", "message"), [(0, "starts a root at 0"), (1, "adds up"), (INT32, "adds up")])
def test_roots_that_start_where_a_sum_overflows_are_refused(start, message):
    x = Value("x", ("batch", "tokens"), 1, INT32, 1.0)
    with pytest.raises(OverflowFound, match=f"y: {message}"):
        Builder((x,), 1).emit(SquareRoot, "y", x.shape, a="x", start=start, steps=10)


@pytest.mark.parametrize(("low", "high"), [(0, 2**31), (-(2**31) - 1, 0)])
def test_an_interval_that_32_bits_do_not_hold_is_refused(low, high):
    with pytest.raises(OverflowFound, match="x: states"):
        check_intervals(Program((Value("x", ("batch", "tokens"), low, high),), (), {}, (), 1))


def c_encoder(program, folder):
    from qbert_opt.integer.emitters import c

    c.emit(program, folder, 1)


def onnx_model(program, folder):
    pytest.importorskip("onnx")
    from qbert_opt.integer.emitters import onnx

    onnx.emit(program, folder, 1)


@pytest.mark.parametrize("visit", [
    lambda program, _: check_intervals(program),
    lambda program, _: Reference(program).run({"x": np.zeros((1, 1), int)}),
    lambda program, _: NarrowExecutor(program).run({"x": np.zeros((1, 1), int)}),
    c_encoder,
    onnx_model,
], ids=["intervals", "reference", "narrow", "c", "onnx"])  # fmt: skip
def test_an_operation_that_is_not_known_is_never_skipped(visit, tmp_path):
    class Unknown(Operation):
        pass

    x = Value("x", ("batch", "tokens"), 0, 9, 1.0)
    step = Unknown(Value("y", x.shape, 0, 9, 1.0))
    with pytest.raises(TypeError, match="Unknown is not an operation of a program"):
        visit(Program((x,), (step,), {}, (Output("y", "y"),), 1), tmp_path)


def test_roots_of_zero_and_divisions_by_zero_are_refused():
    x = Value("x", ("batch", "tokens"), 0, 9, 1.0)
    with pytest.raises(OverflowFound, match="root of 0"):
        Builder((x,), 1).emit(SquareRoot, "y", x.shape, a="x", start=None, steps=5)
    with pytest.raises(OverflowFound, match="divides"):
        Builder((x,), 1).binary("divide", "y", 5, x)


@given(st.integers(1, INT32), st.sampled_from([None, 1 << 16]), st.integers(1, 10))
def test_unfinished_roots_stay_in_their_interval(a, start, steps):
    def build(builder, x):
        return builder.emit(SquareRoot, "y", x.shape, a="x", start=start, steps=steps)

    found, value = both(build, np.array([[a, 1]]), 1, a)
    assert value.low <= found.min() and found.max() <= value.high


def test_grids_hold_zero_exactly_and_are_the_plans_codes():
    import torch

    from qbert_opt.quantization.activation_quant import round_activations

    for low, high, bits in ((-3.0, 2.5, 8), (0.0, 7.0, 8), (-0.17, 6.0, 16), (-1.0, 0.0, 8)):
        grid = Grid.spanning(low, high, bits)
        values = torch.linspace(low - 1, high + 1, 999)
        codes = (values.double().numpy() / grid.scale + grid.zero).round().clip(grid.low, grid.high)
        expected = round_activations(values, bits, low, high).numpy()
        assert np.abs(grid.scale * (codes - grid.zero) - expected).max() <= 1.01 * grid.scale
        assert np.abs(grid.scale * (codes - grid.zero) - expected).mean() <= 0.01 * grid.scale
