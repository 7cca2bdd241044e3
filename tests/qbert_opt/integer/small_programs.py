"""Programs that take one operation to its edges."""

import numpy as np

from qbert_opt.integer.builder import Builder, Grid
from qbert_opt.integer.nonlinearity import nonlinearity
from qbert_opt.integer.operations import Embed, Linear, Positions, Requantize, Shift, Value
from qbert_opt.integer.program import Output

SPAN = 70000
TOKENS = 2048
WIDE = 2**31 - 1


def edge_program(way):
    """Numbers from -70,000 to 70,000 through every shift and rounding, and one way's functions; with inputs.

    `input_ids` less 70,000 is the number; each answer is one output.
    """
    ids = Value("input_ids", ("batch", "tokens"), 0, 2 * SPAN, 1.0)
    b = Builder((ids,), TOKENS)
    x = b.binary("subtract", "x", ids, SPAN, scale=2.0**-14)
    wide = b.binary("multiply", "wide", x, WIDE // SPAN)
    made = []
    for by in (0, 1, 7, 16, 30, 31):
        made += [b.shift(f"shift{by}", x, by), b.shift(f"wide_shift{by}", wide, by)]
    amounts = b.emit(Positions, "amounts", x.shape, ids="input_ids", padding=None)
    made.append(b.emit(Shift, "by_value", x.shape, a=wide.name, by=b.binary("remainder", "by", amounts, 32).name))
    for multiplier, shift, bounds in (
        (1, 0, (-9, 9)),
        (1, 1, (-SPAN, SPAN)),
        (-3, 2, (-(2**31), WIDE)),
        (WIDE, 31, (-99, 12345)),
        (-WIDE, 45, (-(2**31), WIDE)),
        (5, 62, (-1, 1)),
        (-(2**31) + 1, 30, (-5, 2**20)),
    ):
        for value in (x, wide):
            made.append(b.emit(Requantize, f"{value.name}{len(made)}", x.shape, zero=-3, bounds=bounds, a=value.name,
                               multiplier=b.number(multiplier), shift=shift))  # fmt: skip
    chosen = nonlinearity(way)
    span = (-SPAN * 2.0**-14, SPAN * 2.0**-14)
    for function in ("gelu", "tanh"):
        for bits in (8, 16):
            to = Grid.spanning(-1.0, 4.0, bits)
            made.append(chosen.activation(b, f"{function}{bits}", function, x, span, to))
    unit = chosen.score_grid(8.0).scale
    below = b.binary("minimum", "below", b.binary("maximum", "from_zero", x, 0), 65535, scale=unit)
    made.append(chosen.exponential(b, "exp", below))
    positive = b.binary("maximum", "positive", wide, 1)
    made.append(chosen.square_root(b, "root", positive))
    generator = np.random.default_rng(0)
    rows = [list(range(SPAN - 64, SPAN + 65)), [0, 2 * SPAN], generator.integers(0, 2 * SPAN + 1, TOKENS).tolist()]
    return b.finish(tuple(Output(f"out{index}", value.name) for index, value in enumerate(made))), rows


def packed_program(bits, shift=0):
    """A table and a matrix of codes of some bits, 15 a row in three groups; with inputs.

    Where sums of groups are shifted, they have more than 32 bits before.
    """
    generator = np.random.default_rng(bits)
    ids = Value("input_ids", ("batch", "tokens"), 0, 39, 1.0)
    b = Builder((ids,), 8)

    def codes(name, rows):
        low = -(2 ** (bits - 1))
        array = generator.integers(low, -low, (rows, 15)).astype(np.int8)
        array[0, :2] = low, -low - 1
        return b.constant(name, array)

    def factors(name, rows, largest=50):
        return b.constant(name, generator.integers(-largest, largest, (rows, 3)).astype(np.int32))

    x = b.emit(Embed, "x", (*ids.shape, 15), codes=codes("codes", 40), factors=factors("factors", 40),
               offsets=factors("offsets", 40), index="input_ids", shift=3)  # fmt: skip
    bias = b.constant("bias", generator.integers(-900, 900, 6).astype(np.int32))
    largest = 50 if shift == 0 else 2**24
    y = b.emit(Linear, "y", (*ids.shape, 6), x=x.name, weights=codes("weights", 6), factors=factors("k", 6, largest),
               sums=factors("o", 6, largest), bias=bias, shift=shift)  # fmt: skip
    return b.finish((Output("y", y.name),)), [[0], list(range(8)), generator.integers(0, 40, 8).tolist()]
