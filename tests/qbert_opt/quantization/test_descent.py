"""Descent of the compensated error: never up, at the least-squares point, and near the best of all codes."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qbert_opt.errors import UsageError
from qbert_opt.quantization.descent import descend_codes, refit_ranges
from qbert_opt.quantization.methods import gptq, quantease, rtn
from qbert_opt.spec.choices import Choice
from qbert_opt.spec.forms import FORMS, legal_bits

ROWS, COLUMNS, HEADS = 12, 48, 4
GROUPINGS = ("rows:1", "rows:heads", "rows:each", "columns:16", "columns:48")
LAYOUTS = [
    (b, g, f)
    for b in (2, 3, 4) for g in GROUPINGS for f in FORMS
    if b in legal_bits(f) and (2**b < 16 or g[0] == "r" or f != "codebook")
]  # fmt: skip
seeds = st.integers(0, 2**31 - 1)


def problem(seed, rows=ROWS, columns=COLUMNS):
    """A matrix and the damped second moments of correlated inputs of unequal energies."""
    generator = torch.Generator().manual_seed(seed)
    weight = 0.05 * torch.randn(rows, columns, generator=generator)
    inputs = torch.randn(4 * columns, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    inputs *= torch.rand(columns, generator=generator).mul(2).exp() / columns**0.5
    gram = inputs.T @ inputs / len(inputs)
    return weight, gram, gptq.damped("test", weight, gram).float()


def laid(bits, grouping, form="offset", rows=ROWS, columns=COLUMNS):
    return Choice(bits, grouping, "x", form).layout(rows, columns, heads=HEADS)


def loss(found, weight, hessian):
    error = found.dequantize().double() - weight
    return ((error @ hessian.double()) * error).sum().item()


@given(seed=seeds, asked=st.sampled_from(LAYOUTS))
@settings(max_examples=60)
def test_neither_step_ever_loses(seed, asked):
    """From plain codes or compensated ones, for every form and grouping."""
    weight, gram, hessian = problem(seed)
    [found] = gptq.quantize(weight, [laid(*asked)], gram)
    for _ in range(2):
        refitted = refit_ranges(weight, found, hessian)
        assert loss(refitted, weight, hessian) <= loss(found, weight, hessian) * (1 + 1e-5)
        [found] = descend_codes(weight, [refitted], hessian, gptq.by_energy(hessian))
        assert loss(found, weight, hessian) <= loss(refitted, weight, hessian) * (1 + 1e-5)
        assert int(found.codes.max()) < 2 ** asked[0]
        if found.codebook is not None:
            assert (found.codebook.diff(dim=-1) >= 0).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("grouping", ["rows:1", "rows:4", "rows:each", "columns:48"])
def test_refitted_ranges_solve_the_normal_equations(form, grouping):
    """Where no group of columns waits for another, ranges are numpy's least-squares answer, fp16 rounding apart."""
    weight, gram, hessian = problem(3)
    layout = laid(2, grouping, form)
    [start] = gptq.quantize(weight, [layout], gram)
    found = refit_ranges(weight, start, hessian)
    root = torch.linalg.cholesky(hessian.double()).numpy()
    codes = start.codes.double().numpy().reshape(layout.num_groups, -1, COLUMNS)
    for group, (block, target) in enumerate(zip(codes, weight.double().numpy().reshape(codes.shape), strict=True)):
        if form == "codebook":
            features = [block == entry for entry in range(4)]
        elif form == "zero-point":
            features = [block - float(start.zero.reshape(-1)[group])]
        else:
            zero = {"symmetric": 1, "signed": 2, "ternary": 1}.get(form)
            features = [block, np.ones_like(block)] if zero is None else [block - zero]
        design = np.stack([(f @ root).reshape(-1) for f in features], 1)
        best = np.linalg.lstsq(design, (target @ root).reshape(-1), rcond=None)[0]
        if form == "codebook":
            got, best = found.codebook.reshape(-1, 4)[group].numpy(), np.sort(best)
        else:
            got = [found.scale.reshape(-1)[group]] + ([found.offset.reshape(-1)[group]] if form == "offset" else [])
        np.testing.assert_allclose(np.array(got, float), best, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("seed", range(6))
def test_codes_come_near_the_best_of_all(seed):
    """Six weights of 2 bits: all 4096 codes in the same range; each step is between plain rounding and the best."""
    weight, gram, hessian = problem(seed, rows=1, columns=6)
    layout = laid(2, "rows:1", rows=1, columns=6)
    [compensated] = gptq.quantize(weight, [layout], gram)
    scale, offset = compensated.scale.float(), compensated.offset.float()
    everything = torch.tensor(list(product(range(4), repeat=6))) * scale + offset - weight
    losses = ((everything.double() @ hessian.double()) * everything).sum(1)
    [descended] = descend_codes(weight, [compensated], hessian, gptq.by_energy(hessian))
    nearest = ((weight - offset) / scale).round().clamp(0, 3) * scale + offset - weight
    plain = ((nearest.double() @ hessian.double()) * nearest).sum().item()
    found = loss(descended, weight, hessian)
    assert losses.min() * (1 - 1e-6) <= found <= plain * (1 + 1e-6)
    assert (losses < found * (1 - 1e-6)).double().mean() < 0.01  # among the best percent of all codes


def test_a_visit_is_the_best_level_given_the_others():
    """After the visit of the last column, no other level of that column would be better."""
    weight, gram, hessian = problem(1)
    order = torch.arange(COLUMNS)
    [start] = gptq.quantize(weight, [laid(3, "columns:16")], gram)
    [found] = descend_codes(weight, [start], hessian, order)
    best = loss(found, weight, hessian)
    for level, row in product(range(8), range(ROWS)):
        codes = found.codes.clone()
        codes[row, -1] = level
        assert loss(replace(found, codes=codes), weight, hessian) >= best * (1 - 1e-5)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("seed", range(4))
def test_quantease_is_never_worse_than_gptq(bits, seed):
    """On its own gram; at 8 bits it is gptq. Together with other layouts as alone."""
    weight, gram, hessian = problem(seed)
    layouts = [
        laid(bits, g, f) for g, f in (("columns:16", "offset"), ("rows:each", "symmetric"), ("rows:1", "zero-point"))
    ]
    pairs = zip(gptq.quantize(weight, layouts, gram), quantease.quantize(weight, layouts, gram), strict=True)
    for layout, (compensated, improved) in zip(layouts, pairs, strict=True):
        assert loss(improved, weight, hessian) <= loss(compensated, weight, hessian) * (1 + 1e-5)
        [alone] = quantease.quantize(weight, [layout], gram)
        assert torch.equal(alone.codes, improved.codes) and torch.equal(alone.scale, improved.scale)
        if bits == 8:
            assert torch.equal(improved.codes, compensated.codes)
    [plain] = rtn.quantize(weight, layouts[:1])
    assert loss(quantease.quantize(weight, layouts[:1], gram)[0], weight, hessian) < loss(plain, weight, hessian)


def test_forms_keep_their_promises_after_refits():
    """Symmetric and zero-point ranges still store zero as zero."""
    weight, gram, _ = problem(0)
    weight[:, ::5] = 0
    for form in ("symmetric", "zero-point"):
        [found] = quantease.quantize(weight, [laid(3, "columns:16", form)], gram)
        middle = 3 if form == "symmetric" else found.zero.repeat_interleave(16, 1)
        assert (found.dequantize()[found.codes == middle] == 0).all()
    with pytest.raises(UsageError):
        laid(4, "columns:16", "codebook")
