"""Stored matrices and tables as integers: every form and grouping, against the dequantized weights."""

import numpy as np
import pytest
import torch

from qbert_opt.errors import UsageError
from qbert_opt.integer.builder import Builder, Grid
from qbert_opt.integer.intervals import OverflowFound
from qbert_opt.integer.matrices import Codes, add_embedding, add_linear, rounded, signed_codes
from qbert_opt.integer.operations import Value
from qbert_opt.integer.program import Output
from qbert_opt.integer.reference import Reference
from qbert_opt.quantization.methods import rtn
from qbert_opt.quantization.quantized_matrix import with_codebook
from qbert_opt.spec.choices import choice

STORED = (
    "1bit/columns:32/rtn", "2bit/columns:32/rtn", "3bit/columns:16/rtn", "8bit/columns:32/rtn", "2bit/rows:each/rtn",
    "8bit/rows:1/rtn",
    "4bit/rows:4/rtn/zero-point", "8bit/rows:each/rtn/zero-point", "4bit/columns:16/rtn/symmetric",
    "3bit/rows:each/rtn/symmetric", "2bit/columns:32/rtn/signed", "8bit/rows:each/rtn/signed",
    "2bit/columns:32/rtn/ternary", "2bit/rows:each/rtn/ternary",
)  # fmt: skip


def stored(which, rows=24, columns=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator) * torch.logspace(-2, 0, rows)[:, None] + 0.02
    [quantized] = rtn.quantize(weight, [choice(which).layout(rows, columns, heads=4)])
    return quantized


def product(codes, bias, grid, numbers):
    """The integer product with its bias in real numbers, `[tokens, rows]`."""
    x = Value("x", ("batch", "tokens", codes.w.shape[1]), grid.low, grid.high, grid.scale, grid.zero)
    builder = Builder((x,), len(numbers))
    y = add_linear(builder, "m", x, codes, bias)
    program = builder.finish((Output("y", "m"),))
    return Reference(program).run({"x": numbers[None]})["m"][0] * builder.scale_of(y)


@pytest.mark.parametrize("which", STORED)
@pytest.mark.parametrize("bits", [8, 16])
def test_products_are_those_of_the_dequantized_weights(which, bits):
    quantized = stored(which)
    grid = Grid.spanning(-1.0, 3.0, bits)
    generator = np.random.default_rng(0)
    numbers = generator.integers(grid.low, grid.high + 1, (50, 64))
    bias = generator.normal(size=24)
    codes = signed_codes("m", quantized)
    found = product(codes, bias, grid, numbers)
    exact = grid.scale * (numbers - grid.zero) @ quantized.dequantize().double().numpy().T + bias
    if "columns" not in which and which.endswith(("symmetric", "signed", "zero-point", "ternary")):
        unit = grid.scale * codes.scale[:, 0]
        assert (np.abs(found - exact) <= 0.501 * unit).all(), "only the bias may be rounded"
    else:
        error = np.abs(found - exact).max(0) / np.abs(exact - bias).max(0)  # relative to a row's own numbers
        assert error.max() < 5e-4, "factors have 14 bits, whatever the inputs"


@pytest.mark.parametrize("which", STORED)
def test_codes_keep_their_bits(which):
    codes = signed_codes("m", stored(which))
    bits = int(which[0])
    assert -(2 ** (bits - 1)) <= codes.w.min() and codes.w.max() < 2 ** (bits - 1)


@pytest.mark.parametrize("which", ["8bit/rows:each/rtn", "4bit/columns:16/rtn", "8bit/rows:1/rtn/symmetric"])
def test_rows_of_tables_are_off_by_no_more_than_rounding(which):
    quantized = stored(which)
    exact = quantized.dequantize().double().numpy()
    grid = Grid.symmetric(float(np.abs(exact).max()), 16)
    index = Value("i", ("batch", "tokens"), 0, 23, 1.0)
    builder = Builder((index,), 24)
    add_embedding(builder, "t", index, signed_codes("t", quantized), grid)
    found = Reference(builder.finish((Output("y", "t"),))).run({"i": np.arange(24)[None]})["t"][0]
    assert np.abs(found * grid.scale - exact).max() < 0.6 * grid.scale


def test_a_head_is_rounded_to_8_bits_and_rows_of_zeros_stay_zero():
    weight = np.random.default_rng(0).normal(size=(5, 16))
    weight[2] = 0
    codes = rounded(weight)
    assert np.abs(codes.w * codes.scale - weight).max() <= np.abs(weight).max() / 254 + 1e-12
    assert not codes.w[2].any() and (codes.scale > 0).all()


def test_a_bias_far_beyond_its_rows_weights_coarsens_the_row_only():
    """A pruned row has tiny weights and an ordinary bias, which in units of the weights needs more than 32 bits."""
    weight = np.full((2, 8), 0.5)
    weight[1] = 1e-7
    grid = Grid.symmetric(1.0, 8)
    numbers = np.full((1, 8), 100)
    found = product(rounded(weight), np.array([0.25, 3.0]), grid, numbers)
    assert np.abs(found[0] - [0.25 + 8 * 0.5 * 100 * grid.scale, 3.0]).max() < 1e-3


def test_codebooks_and_scales_of_zero_are_refused_by_name():
    layout = choice("2bit/rows:1/kmeans/codebook").layout(8, 16, heads=4)
    book = with_codebook(layout, torch.zeros(8, 16, dtype=torch.uint8), torch.arange(4.0).half())
    with pytest.raises(UsageError, match="layer: form codebook has no integer form"):
        signed_codes("layer", book)
    plain = stored("4bit/rows:each/rtn")
    plain.scale[3] = 0
    with pytest.raises(UsageError, match="layer: a scale is 0"):
        signed_codes("layer", plain)


def test_what_no_precision_of_factors_fits_is_refused():
    wide = 1 << 15
    codes = Codes(np.full((1, wide), 127, np.int8), np.ones((1, 1)), np.full((1, 1), 0.3))
    with pytest.raises(OverflowFound, match="m: adds up numbers"):
        product(codes, None, Grid.symmetric(1.0, 16), np.zeros((1, wide), np.int64))
