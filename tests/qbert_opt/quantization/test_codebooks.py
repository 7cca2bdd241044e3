"""Codebooks and searched ranges: optimal where that can be enumerated, priced as stored, and indifferent to units."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qbert_opt.checkpoint.stored_tensors import PARTS, part_shapes, restored, stored_parts
from qbert_opt.errors import UsageError
from qbert_opt.quantization.codebooks import search_codebook
from qbert_opt.quantization.methods import gptq, kmeans, mse, rtn
from qbert_opt.quantization.quantized_matrix import grouped
from qbert_opt.runtime import plugins
from qbert_opt.spec.choices import Choice, Layout
from qbert_opt.spec.forms import FORMS

ROWS, COLUMNS, HEADS = 24, 64, 4
GROUPINGS = ("rows:1", "rows:heads", "rows:each", "columns:16", "columns:64")
seeds = st.integers(0, 2**31 - 1)
groupings = st.sampled_from(GROUPINGS)
VARIANTS = [(m, f) for m in plugins.available("quantizers") for f in plugins.load("quantizers", m).FORMS]
variants = st.sampled_from(VARIANTS)


def random_weight(seed):
    """Normal weights whose scale changes from row to row, with a few outliers."""
    generator = torch.Generator().manual_seed(seed)
    weight = 0.05 * torch.randn(ROWS, COLUMNS, generator=generator) * torch.rand(ROWS, 1, generator=generator).exp()
    weight[torch.randint(ROWS, (5,), generator=generator), torch.randint(COLUMNS, (5,), generator=generator)] *= 8
    return weight


def random_gram(seed):
    """Second moments of correlated inputs with unequal energies."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(400, COLUMNS, generator=generator) @ torch.randn(COLUMNS, COLUMNS, generator=generator)
    inputs *= torch.rand(COLUMNS, generator=generator).mul(3).exp() / COLUMNS**0.5
    return inputs.T @ inputs / 400


def loss(error, gram):
    return torch.einsum("ij,jk,ik->", error.double(), gram.double(), error.double()).item()


def laid(bits, grouping, form="offset"):
    """The layout of a choice; of 2 bits in form ternary, which has no others."""
    return Choice(2 if form == "ternary" else bits, grouping, "x", form).layout(ROWS, COLUMNS, heads=HEADS)


def quantize(method, weight, layouts, gram):
    return plugins.load("quantizers", method).quantize(weight, layouts, gram)


def least_cost(values, weights, num_levels):
    """Weighted squared error of the best partition of sorted values into intervals, by trying them all."""
    best = np.inf
    for cuts in combinations(range(1, len(values)), num_levels - 1):
        parts = zip(np.split(values, cuts), np.split(weights, cuts), strict=True)
        best = min(best, sum((w * (v - np.average(v, weights=w)) ** 2).sum() for v, w in parts))
    return best


@given(seed=seeds, size=st.integers(5, 11))
@settings(max_examples=25)
def test_codebooks_are_optimal_on_small_groups(seed, size):
    """Four levels for up to eleven weights lose what the best of all partitions loses, fp16 rounding apart."""
    generator = np.random.default_rng(seed)
    weight = torch.from_numpy(generator.standard_normal((3, size)).astype(np.float32))
    energy = torch.from_numpy(generator.uniform(0.01, 10, size).astype(np.float32))
    layout = Layout(2, "rows", 3, 1, "codebook")
    [found] = kmeans.quantize(weight, [layout], torch.diag(energy))
    error = (energy * (found.dequantize() - weight).square()).double().sum(1).numpy()
    for row in range(3):
        order = np.argsort(weight[row].numpy())
        best = least_cost(weight[row].double().numpy()[order], energy.double().numpy()[order], 4)
        slack = float(energy.sum()) * (4 * 2.0**-11) ** 2  # a level up to 4 moves by half a unit of fp16
        assert best * 0.999 - 1e-9 <= error[row] <= best * 1.001 + 2 * np.sqrt(best * slack) + slack


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("grouping", GROUPINGS)
def test_codebooks_lose_less_than_equal_steps(bits, grouping):
    """Levels that lie anywhere beat the searched range, in the energy-weighted error that both aim at."""
    weight, gram = random_weight(bits), random_gram(bits)
    if 2**bits >= grouped(weight, laid(bits, grouping)).shape[1]:
        with pytest.raises(UsageError):
            laid(bits, grouping, "codebook")
        return
    [found] = kmeans.quantize(weight, [laid(bits, grouping, "codebook")], gram)
    [even] = mse.quantize(weight, [laid(bits, grouping)])
    energy = torch.diag(gram.diagonal())
    assert loss(found.dequantize() - weight, energy) <= loss(even.dequantize() - weight, energy)


@given(seed=seeds, bits=st.sampled_from([2, 3, 4, 6]), grouping=groupings, form=st.sampled_from(mse.FORMS))
@settings(max_examples=40)
def test_mse_is_never_worse_than_rtn(seed, bits, grouping, form):
    """In no group, in squared error, for every form."""
    weight, layout = random_weight(seed), laid(bits, grouping, form)
    errors = [
        grouped(found.dequantize() - weight, layout).double().square().sum(1)
        for [found] in (mse.quantize(weight, [layout]), rtn.quantize(weight, [layout]))
    ]
    assert (errors[0] <= errors[1] * (1 + 1e-6) + 1e-12).all()


def test_mse_is_never_worse_on_groups_that_it_samples():
    """One range for 150 x 200 weights, whose outliers a sample can miss."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(150, 200, generator=generator)
    weight[7, 11] = 60.0
    layout = Layout(3, "rows", 1, 150)
    found = [m.quantize(weight, [layout])[0].dequantize() - weight for m in (mse, rtn)]
    assert found[0].square().sum() < found[1].square().sum()


@given(seed=seeds, bits=st.sampled_from([2, 3, 4]), grouping=groupings, variant=variants)
@settings(max_examples=60)
def test_price_is_what_is_stored(seed, bits, grouping, variant):
    """Every method and form stores the bytes of its choice's price, in the shapes announced, and comes back."""
    method, form = variant
    try:
        layout = laid(bits, grouping, form)
    except UsageError:
        return
    weight = random_weight(seed)
    [found] = quantize(method, weight, [layout], random_gram(seed))
    parts = stored_parts(found)
    choice = Choice(layout.bits, grouping, method, form)
    assert sum(p.numel() * p.element_size() for p in parts.values()) == choice.bytes(ROWS, COLUMNS, heads=HEADS)
    assert {n: (tuple(p.shape), p.dtype) for n, p in parts.items()} == part_shapes(layout, ROWS, COLUMNS)
    assert set(parts) <= set(PARTS)
    again = restored(layout, ROWS, COLUMNS, parts)
    assert torch.equal(again.dequantize(), found.dequantize())
    assert torch.equal(again.codes, found.codes)


@given(seed=seeds, bits=st.sampled_from([2, 3, 4]), grouping=groupings, variant=variants, power=st.integers(-3, 3))
@settings(max_examples=30)
def test_units_do_not_matter(seed, bits, grouping, variant, power):
    """Weights and inputs in other units (powers of two) give the same codes, and weights in those units."""
    method, form = variant
    try:
        layout = laid(bits, grouping, form)
    except UsageError:
        return
    weight, gram = random_weight(seed), random_gram(seed)
    [plain] = quantize(method, weight, [layout], gram)
    [scaled] = quantize(method, weight * 2.0**power, [layout], gram * 4.0**power)
    # fp16 keeps fewer digits below 2^-14, so a small scale may round differently there
    torch.testing.assert_close(scaled.dequantize(), plain.dequantize() * 2.0**power, rtol=0.02, atol=2.0**power * 2e-3)
    assert (scaled.codes != plain.codes).float().mean() < 0.02


@given(seed=seeds, bits=st.sampled_from([2, 3, 4]), variant=variants)
@settings(max_examples=40)
def test_rows_with_ranges_of_their_own_do_not_know_each_other(seed, bits, variant):
    """Permuting the outputs permutes what is stored, where no range spans rows."""
    method, form = variant
    layout = laid(bits, "columns:64", form)
    weight, gram = random_weight(seed), random_gram(seed)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(seed))
    [plain] = quantize(method, weight, [layout], gram)
    [moved] = quantize(method, weight[order], [layout], gram)
    assert (moved.codes == plain.codes[order]).float().mean() > 0.99  # sums in another order may tip a tie
    assert torch.equal(moved.scale, plain.scale[order]) or method != "rtn"


@given(
    seed=seeds, bits=st.sampled_from([2, 3, 4, 8]), grouping=groupings, method=st.sampled_from(["rtn", "mse", "gptq"])
)
@settings(max_examples=40)
def test_zero_points_are_codes_and_zero_stays_zero(seed, bits, grouping, method):
    """A zero weight is stored as zero, by the code that the range stores as its zero point."""
    weight = random_weight(seed)
    weight[:, ::7] = 0
    [found] = quantize(method, weight, [laid(bits, grouping, "zero-point")], torch.eye(COLUMNS))
    assert (found.dequantize()[:, ::7] == 0).all()
    assert int(found.zero.max()) < 2**bits


@pytest.mark.parametrize("grouping", ["rows:1", "rows:4", "columns:16"])
@pytest.mark.parametrize("seed", range(4))
def test_gptq_takes_codebooks_too(seed, grouping):
    """In company of other forms, each lane as alone; and compensation beats nearest entries of the same codebook."""
    weight, gram = random_weight(seed), random_gram(seed)
    layout, other = laid(2, grouping, "codebook"), laid(3, "rows:each")
    book = search_codebook(weight, layout, gram.diagonal())
    together = gptq.quantize(weight, [layout, other], gram)
    [alone] = gptq.quantize(weight, [layout], gram)
    assert torch.equal(together[0].codes, alone.codes) and torch.equal(together[0].codebook, alone.codebook)
    assert torch.equal(together[1].codes, gptq.quantize(weight, [other], gram)[0].codes)
    [nearest] = kmeans.quantize(weight, [layout], gram)
    assert torch.equal(nearest.codebook.reshape(book.shape), book)
    assert loss(alone.dequantize() - weight, gram) < loss(nearest.dequantize() - weight, gram)


def test_codebooks_survive_equal_and_few_values():
    """A constant group, one with two values, and zero energy everywhere: finite, and exact where fp16 is."""
    weight = torch.zeros(3, 64)
    weight[1, ::3], weight[2] = 0.5, -0.25
    for bits in (2, 3, 5):
        layout = Layout(bits, "rows", 3, 1, "codebook")
        for gram in (torch.eye(64), torch.zeros(64, 64)):
            for method in (kmeans, gptq):
                [found] = method.quantize(weight, [layout], gram)
                assert torch.equal(found.dequantize(), weight)
                assert (found.codebook.diff(dim=-1) >= 0).all()


def test_kmeans_wants_its_gram():
    """Without second moments of the right shape there are no energies."""
    with pytest.raises(ValueError, match=r"kmeans needs the input second moments \[64, 64\]"):
        kmeans.quantize(random_weight(0), [laid(2, "rows:1", "codebook")], None)


@pytest.mark.parametrize("method", sorted({m for m, _ in VARIANTS}))
def test_grids_know_their_forms(method):
    """A grid takes the usual form of its method, and refuses a form that the method has not."""
    from qbert_opt.quantization.calibration import method_grid

    legal = plugins.load("quantizers", method).FORMS
    assert {c.form for c in method_grid(method)} == {legal[0]}
    assert {c.form for c in method_grid(method, forms=legal)} == set(legal)
    for form in set(FORMS) - set(legal):
        with pytest.raises(UsageError, match=f"`forms` {form}: {method} has no such form. Legal with it: "):
            method_grid(method, forms=[form])
