"""One encoder layer and a whole BERT-base on car-soc, calculated step by step.

Times are in microseconds; the formulas are those of `hwmodels.cost.operation_cost`, the figures those of car-soc.yaml.
"""

import pytest

from hwmodels.cost.operation import Operation
from hwmodels.schedule.simulate import simulate

from ..conftest import encoder

TOKENS, WIDTH, INNER, HEADS = 128, 768, 3072, 12
DRAM = 17.064e3 * 0.70 * 0.60  # bytes per us
MSMC = 120e3
MMA = 4096 * 0.45 * 1e3  # products per us
LAUNCH, WAIT = 20.0, 0.15


def product(outputs, inputs, bits, groups, unpack_per_weight, unpack_per_group):
    """Return the time of a product: launch + max(arithmetic + unpacking, DRAM); MSMC is never the longest here."""
    stored_bytes = outputs * inputs * bits // 8 + 4 * groups
    busy = TOKENS * outputs * inputs / MMA
    busy += (outputs * inputs * unpack_per_weight + groups * unpack_per_group) / 1e3
    return LAUNCH + max(busy, stored_bytes / DRAM + WAIT)


def bias(width):
    """fp16 values stream while 32 elements a cycle are added; out and in cross from MSMC."""
    near = (2 * TOKENS * width + 2 * width) / MSMC + 0.04
    return LAUNCH + max(TOKENS * width / 32e3, 2 * width / DRAM + WAIT, near)


def layer(**form):
    """Four square matrices, two of 768 x 3072, their biases, attention, softmax, GELU, two sums, two norms."""
    square, up, down = (product(n, k, **form) for n, k in ((WIDTH, WIDTH), (INNER, WIDTH), (WIDTH, INNER)))
    attention = 2 * (LAUNCH + HEADS * TOKENS * TOKENS * 64 / MMA)
    softmax = LAUNCH + HEADS * TOKENS * TOKENS / 2e3
    gelu = LAUNCH + TOKENS * INNER / 4e3
    total = LAUNCH + max(TOKENS * WIDTH / 32e3, 3 * TOKENS * WIDTH / MSMC + 0.04)
    norm = LAUNCH + TOKENS * WIDTH / 4e3
    products = 4 * square + up + down + 5 * bias(WIDTH) + bias(INNER)
    return products + attention + softmax + gelu + 2 * total + 2 * norm


def embedding():
    """128 rows of 768 codes with a scale and offset; 128 token ids come in beside them."""
    near = (TOKENS * 772 + TOKENS + TOKENS * WIDTH) / MSMC + 0.04
    return LAUNCH + max(TOKENS * WIDTH / 32e3, TOKENS * 772 / DRAM + WAIT, near)


EIGHT = {"bits": 8, "groups": 1, "unpack_per_weight": 0, "unpack_per_group": 0}
FOUR = {"bits": 4, "groups": 128, "unpack_per_weight": 0.0625, "unpack_per_group": 8}


@pytest.mark.parametrize("layers", [1, 12])
@pytest.mark.parametrize("form", [EIGHT, FOUR], ids=["8 bits", "4 bits"])
def test_one_layer_and_the_whole_model(car_soc, layers, form):
    """Bytes to the last one, the separable time to rounding; the schedule lies between the DRAM time and that."""
    report = simulate(encoder(bits=form["bits"], groups=form["groups"], layers=layers), car_soc)
    matrices = 7_077_888 * form["bits"] // 8 + 6 * 4 * form["groups"]
    vectors = 2 * (5 * WIDTH + INNER) + 2 * 4 * WIDTH  # biases and LayerNorms in fp16
    assert report.weight_bytes == layers * (matrices + vectors) + 30_522 * 772
    assert report.dram_bytes == layers * (matrices + vectors) + TOKENS * 772
    assert report.latency_bound_s == pytest.approx((embedding() + layers * layer(**form)) * 1e-6, rel=1e-9)
    assert report.dram_bytes / DRAM * 1e-6 < report.latency_s < report.latency_bound_s


def test_the_arena_of_one_layer(car_soc):
    """Largest while GELU runs: its input and output of 128 x 3072 and the residual of 128 x 768."""
    memory = simulate(encoder(layers=1), car_soc).memory
    assert memory.live_bytes == memory.peak_bytes == 2 * TOKENS * INNER + TOKENS * WIDTH == 884_736


def test_products_per_layer_are_the_published_count():
    """BERT-base: 7.08 M weights x 128 tokens and 2 x 12 x 128 x 128 x 64 of attention a layer, 11.2 G together."""
    macs = sum(
        op.batch * op.m * op.n * op.k
        for _, op in encoder().nodes(data="op")
        if isinstance(op, Operation) and op.kind in ("gemm", "matmul")
    )
    assert macs == 12 * (128 * 7_077_888 + 2 * 12 * 128 * 128 * 64) == 11_173_625_856
