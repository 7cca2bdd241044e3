"""Quantizers: what is stored is in range, near the weights, and never worse than the simple way."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qbert_opt.quantization.methods import gptq, mse, rtn
from qbert_opt.quantization.quantized_matrix import QuantizedMatrix, expand, grouped
from qbert_opt.quantization.ranges import search_range
from qbert_opt.spec.choices import Choice, Layout
from qbert_opt.spec.forms import Form

ROWS, COLUMNS, HEADS = 24, 64, 4
GROUPINGS = ("rows:1", "rows:heads", "rows:each", "columns:16", "columns:64")
GRID = [(bits, grouping) for bits in (1, 2, 3, 4, 8) for grouping in GROUPINGS]

layouts = st.sampled_from(GRID).map(lambda pair: layout(*pair))
wider = st.sampled_from([pair for pair in GRID if pair[0] > 1])
symmetric_layouts = wider.map(lambda pair: layout(*pair, form="symmetric"))
fixed_zero = symmetric_layouts | wider.map(lambda pair: layout(*pair, form="signed"))
seeds = st.integers(0, 2**31 - 1)


def layout(bits: int, grouping: str, *, form: Form = "offset") -> Layout:
    return Choice(bits, grouping, "rtn", form).layout(ROWS, COLUMNS, heads=HEADS)


def random_weight(seed: int) -> torch.Tensor:
    """Normal weights with a scale that changes from row to row and a few outliers, as in real encoders."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(ROWS, COLUMNS, generator=generator) * torch.rand(ROWS, 1, generator=generator).mul(2).exp()
    weight[torch.randint(ROWS, (5,), generator=generator), torch.randint(COLUMNS, (5,), generator=generator)] *= 8
    return 0.05 * weight


def random_gram(seed: int) -> torch.Tensor:
    """Second moments of correlated inputs with very unequal energies."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(COLUMNS, COLUMNS, generator=generator) / COLUMNS**0.5
    inputs = torch.randn(400, COLUMNS, generator=generator) @ mixing
    inputs *= torch.rand(COLUMNS, generator=generator).mul(3).exp()
    return inputs.T @ inputs / 400


def loss(error: torch.Tensor, gram: torch.Tensor) -> float:
    return torch.einsum("ij,jk,ik->", error.double(), gram.double(), error.double()).item()


@given(seed=seeds, asked=layouts)
@settings(max_examples=40)
def test_rtn_is_within_half_a_step(seed, asked):
    """Codes are in range, and no weight moves by more than half a step, the fp16 rounding of its range apart."""
    weight = random_weight(seed)
    [found] = rtn.quantize(weight, [asked])
    assert found.codes.dtype == torch.uint8
    assert int(found.codes.max()) < 2**asked.bits
    scale = expand(found.scale.float(), asked, ROWS, COLUMNS)
    largest = grouped(weight, asked).abs().amax(1)
    # offset and scale are each off by half an fp16 unit in the last place: 2^-11 relative
    slack = expand(largest, asked, ROWS, COLUMNS) * 3 * 2.0**-11 + 1e-7
    assert ((found.dequantize() - weight).abs() <= scale / 2 + slack).all()


@given(seed=seeds, asked=layouts)
@settings(max_examples=40)
def test_what_is_on_the_grid_comes_back_exactly(seed, asked):
    """Weights that are fp16 scale × code + offset, with both range ends present, are stored without error."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**asked.bits, (ROWS, COLUMNS), generator=generator)
    groups = grouped(codes, asked)
    groups[:, 0], groups[:, -1] = 0, 2**asked.bits - 1
    scale = 2.0 ** torch.randint(-8, 2, (asked.num_groups,), generator=generator)
    offset = -scale * torch.randint(0, 2**asked.bits, (asked.num_groups,), generator=generator)
    weight = codes * expand(scale, asked, ROWS, COLUMNS) + expand(offset, asked, ROWS, COLUMNS)
    [found] = rtn.quantize(weight, [asked])
    assert torch.equal(found.dequantize(), weight)
    assert torch.equal(found.codes, codes.to(torch.uint8))


@given(seed=seeds, asked=st.one_of(layouts, fixed_zero))
@settings(max_examples=40)
def test_rtn_is_stable_under_itself(seed, asked):
    """Quantizing what was quantized moves nothing by more than the fp16 rounding of the range."""
    [once] = rtn.quantize(random_weight(seed), [asked])
    first = once.dequantize()
    [twice] = rtn.quantize(first, [asked])
    largest = expand(grouped(first, asked).abs().amax(1), asked, ROWS, COLUMNS)
    assert ((twice.dequantize() - first).abs() <= largest * 4 * 2.0**-11 + 1e-7).all()


@given(seed=seeds, asked=symmetric_layouts)
@settings(max_examples=40)
def test_symmetric_zero_stays_zero(seed, asked):
    """A symmetric range has an odd number of levels, so that a zero weight is stored as zero, for both methods."""
    weight = random_weight(seed)
    weight[:, ::7] = 0
    [found] = rtn.quantize(weight, [asked])
    assert (found.dequantize()[:, ::7] == 0).all()
    [found] = gptq.quantize(weight, [asked], torch.eye(COLUMNS))
    assert (found.dequantize()[:, ::7] == 0).all()
    assert found.codes.max() <= 2**asked.bits - 2


@given(asked=st.one_of(layouts, fixed_zero), value=st.sampled_from([0.0, 1.0, -0.25]))
@settings(max_examples=40)
def test_a_constant_matrix_stays_finite(asked, value):
    """A group of equal weights has a representable range, and is stored exactly where fp16 has its value."""
    weight = torch.full((ROWS, COLUMNS), value)
    for found in (*rtn.quantize(weight, [asked]), *gptq.quantize(weight, [asked], torch.eye(COLUMNS))):
        assert torch.isfinite(found.dequantize()).all()
        assert (found.dequantize() - weight).abs().max() <= abs(value) * 2.0**-10


@pytest.mark.parametrize("bits", [2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_gptq_is_never_worse_than_rounding(bits, seed):
    """On its own gram, tr(ΔW G ΔWᵀ) of compensated rounding is at most that of plain rounding, column groups."""
    weight, gram = random_weight(seed), random_gram(seed)
    asked = [layout(bits, "columns:16"), layout(bits, "columns:64")]
    for plain, compensated in zip(rtn.quantize(weight, asked), gptq.quantize(weight, asked, gram), strict=True):
        assert loss(compensated.dequantize() - weight, gram) <= loss(plain.dequantize() - weight, gram)


@given(seed=seeds, asked=st.one_of(layouts, fixed_zero))
@settings(max_examples=20)
def test_gptq_codes_are_in_range_and_alone_as_in_company(seed, asked):
    """A layout gets the same codes whether quantized alone or together with others."""
    weight, gram = random_weight(seed), random_gram(seed)
    other = layout(4, "rows:each")
    together = gptq.quantize(weight, [other, asked], gram)[1]
    [alone] = gptq.quantize(weight, [asked], gram)
    assert int(alone.codes.max()) < 2**asked.bits
    assert torch.equal(alone.scale, together.scale)
    assert torch.equal(alone.codes, together.codes)


@pytest.mark.parametrize("form", ["offset", "symmetric", "signed", "zero-point"])
@pytest.mark.parametrize("seed", range(3))
def test_more_bits_lose_less_though_one_weight_lies_far_out_at_a_loud_input(seed, form):
    """A group of 24,576 weights, one of them 40 deviations out where the input is 30 times as loud.

    Half the step is a quarter of the loss: a bit that brings far more than that was not used well one bit below.
    """
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(192, 128, generator=generator)
    inputs = torch.randn(512, 128, generator=generator)
    weight[7, 5], inputs[:, 5] = 40.0, 30 * inputs[:, 5]
    gram = inputs.T @ inputs / len(inputs)
    asked = [Layout(bits, "rows", 1, 192, form) for bits in (2, 3, 4, 5)]
    losses = [loss(found.dequantize() - weight, gram) for found in gptq.quantize(weight, asked, gram)]
    assert all(1 < less / more < 5 for less, more in pairwise(losses)), losses


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_signed_levels_are_those_of_a_twos_complement_integer(bits):
    """{-2, -1, 0, 1} times the scale at 2 bits: every level is used and returned exactly, and zero is one of them."""
    lowest = -(2 ** (bits - 1))
    weight = 0.25 * torch.arange(lowest, -lowest, dtype=torch.float32)[None].repeat(2, 1)
    [stored] = rtn.quantize(weight, [Layout(bits, "rows", 2, 1, "signed")])
    assert stored.scale.tolist() == [0.25, 0.25]
    assert torch.equal(stored.dequantize(), weight)
    assert stored.codes[0].tolist() == list(range(2**bits))
    assert stored.zero.tolist() == [2 ** (bits - 1)] * 2


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("method", [gptq, mse])
def test_a_searched_signed_range_loses_no_more_than_a_symmetric_one(bits, method):
    """It has every symmetric level and one more, so the search over 96 groups finds less error."""
    weight, gram = random_weight(5), torch.eye(COLUMNS)
    forms = [Layout(bits, "columns", ROWS * COLUMNS // 16, 16, form) for form in ("symmetric", "signed")]
    symmetric, signed = (loss(m.dequantize() - weight, gram) for m in method.quantize(weight, forms, gram))
    assert signed < symmetric


def test_gptq_wants_its_gram():
    """Without second moments of the right shape there is nothing to compensate by."""
    for gram in (None, torch.eye(3)):
        with pytest.raises(ValueError, match=r"gptq needs the input second moments \[64, 64\]"):
            gptq.quantize(random_weight(0), [layout(2, "rows:1")], gram)


@given(seed=seeds, asked=layouts)
@settings(max_examples=40)
def test_searched_range_is_never_worse_than_min_max(seed, asked):
    """Σ energy · (w - stored(w))² under the searched range is at most that under the min-max range."""
    weight = random_weight(seed)
    energy = torch.rand(COLUMNS, generator=torch.Generator().manual_seed(seed)) + 0.01
    scale, offset = (part[:, None].float() for part in search_range(weight, asked, energy))
    groups = grouped(weight, asked)
    codes = ((groups - offset) / scale).round().clamp(0, 2**asked.bits - 1)
    searched = codes * scale + offset
    [plain] = rtn.quantize(weight, [asked])
    weights = grouped(energy.expand(ROWS, COLUMNS), asked)
    losses = [
        (weights * (groups - stored).square()).sum(1) for stored in (searched, grouped(plain.dequantize(), asked))
    ]
    assert (losses[0] <= losses[1] * (1 + 1e-5) + 1e-12).all()


@given(seed=seeds, grouping=st.sampled_from(GROUPINGS))
def test_two_levels_are_the_best_two(seed, grouping):
    """At 1 bit no cut of a group into two, with their means as levels, has a smaller error than the range found."""
    weight, asked = random_weight(seed), layout(1, grouping)
    scale, offset = (part[:, None].float() for part in search_range(weight, asked, torch.ones(COLUMNS)))
    groups = grouped(weight, asked).sort(1).values
    codes = ((groups - offset) / scale).round().clamp(0, 1)
    losses = (groups - codes * scale - offset).square().sum(1)
    cuts = range(1, groups.shape[1], 1 + groups.shape[1] // 100)
    parts = [[part.var(1, correction=0) * part.shape[1] for part in (groups[:, :cut], groups[:, cut:])] for cut in cuts]
    best = torch.stack([below + above for below, above in parts]).amin(0)
    assert (losses <= 1.001 * best + 1e-5).all()  # levels are stored in 16 bits


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("seed", range(5))
def test_nested_row_groups_lose_less(bits, seed):
    """Cutting every row group finer lowers the squared error of plain rounding, summed over the matrix."""
    weight = random_weight(seed)
    nested = [layout(bits, g) for g in ("rows:1", "rows:4", "rows:12", "rows:each")]
    found = [(q.dequantize() - weight).square().sum().item() for q in rtn.quantize(weight, nested)]
    assert found == sorted(found, reverse=True)


def test_dequantize_by_hand():
    """Scale · code + offset, row groups of two rows, column groups of two inputs."""
    codes = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]], dtype=torch.uint8)
    half, one = torch.tensor([0.5]).half(), torch.tensor([1.0]).half()
    rows = QuantizedMatrix(Layout(2, "rows", 1, 2), codes, half, one)
    assert rows.dequantize().tolist() == [[1.0, 1.5, 2.0, 2.5], [2.5, 2.0, 1.5, 1.0]]
    scale = torch.tensor([[1.0, 2.0], [4.0, 8.0]]).half()
    columns = QuantizedMatrix(Layout(2, "columns", 4, 2), codes, scale, torch.zeros(2, 2).half())
    assert columns.dequantize().tolist() == [[0, 1, 4, 6], [12, 8, 8, 0]]
