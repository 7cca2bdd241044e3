"""Training quantizers: gradients by hand and by finite differences, starts and exports bit for bit."""

import pytest
import torch

from qbert_opt.checkpoint.stored_tensors import restored, stored_parts
from qbert_opt.errors import UsageError
from qbert_opt.quantization.quantized_matrix import QuantizedMatrix
from qbert_opt.runtime import plugins
from qbert_opt.spec.choices import Layout, choice
from qbert_opt.training.level_rounding import levels
from qbert_opt.training.quantizers import codebook, lsq, minmax
from qbert_opt.training.straight_through import straight_through, to_half

GROUPINGS = ("rows:1", "rows:heads", "rows:each", "columns:8")


def quantized(bits, grouping, form, method="rtn", rows=8, columns=16):
    """Random weights and what a quantizer makes of them."""
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(bits))
    suffix = "" if form == "offset" else f"/{form}"
    layout = choice(f"{bits}bit/{grouping}/{method}{suffix}").layout(rows, columns, heads=4)
    plugin = plugins.load("quantizers", method)
    gram = torch.eye(columns) + 0.5
    [found] = plugin.quantize(weight, [layout], gram) if plugin.NEEDS_GRAM else plugin.quantize(weight, [layout])
    return weight, found


CASES = [
    *((bits, grouping, form, "rtn") for bits in (2, 3, 4, 8) for grouping in GROUPINGS for form in lsq.FORMS[:2]),
    *((bits, grouping, "offset", "gptq") for bits in (2, 3) for grouping in GROUPINGS),
    *((bits, "rows:heads", "zero-point", "rtn") for bits in (2, 4)),
    *((bits, grouping, "codebook", "kmeans") for bits in (2, 3) for grouping in ("rows:1", "rows:heads")),
]


def trained(weight, start):
    plugin = codebook if start.codebook is not None else lsq
    return plugin.trained(weight, start)


def test_rounding_is_passed_by_its_gradient_unchanged():
    """Forward the rounded values bit for bit, backward what came."""
    values = torch.tensor([0.4, 0.6, -1.5, 2.0], requires_grad=True)
    found = straight_through(values, torch.round)
    assert found.tolist() == [0.0, 1.0, -2.0, 2.0]
    found.backward(torch.tensor([1.0, -2.0, 3.0, 0.5]))
    assert values.grad.tolist() == [1.0, -2.0, 3.0, 0.5]
    tiny = torch.tensor([3e-8, 1.0 + 2**-12, 0.1])
    assert torch.equal(straight_through(tiny, to_half), tiny.half().float())


@pytest.mark.parametrize("shape", [(24, 16), (96, 4), (3, 1280), (1, 5000)])
@pytest.mark.parametrize("zero", [None, 1])
def test_levels_equal_the_chain_of_operations(shape, zero):
    """Values and gradients bit for bit; the offset is learned, or follows from the scale (`zero`)."""

    def chain(latent, scale, offset, top):
        codes = straight_through((latent - offset) / scale, torch.round).clamp(0, top)
        return codes * scale + offset

    generator = torch.Generator().manual_seed(shape[0])
    latent, upstream = (torch.randn(shape, generator=generator) for _ in range(2))
    scale = torch.rand(shape[0], 1, generator=generator) + 0.3
    offset = torch.randn(shape[0], 1, generator=generator) - 1
    found = []
    for function in (chain, levels):
        leaves = [tensor.clone().requires_grad_() for tensor in (latent, scale, offset)]
        low = leaves[2] if zero is None else -zero * leaves[1]
        stored = function(leaves[0], leaves[1], low, 3)
        stored.backward(upstream)
        found.append([stored.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)])
    assert len(found[0]) == (4 if zero is None else 3)
    clamped = found[0][1] == 0
    assert 0 < clamped.float().mean() < 1
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_gradients_by_hand():
    """One group, scale 0.5, offset -1: u = (latent + 1) / 0.5, codes 0 to 3.

    latent  -1.4   -0.9   0.1   0.3   1.0
    u       -0.8    0.2   2.2   2.6   4.0
    code     0      0     2     3     3     (first and last clamped)
    scale    0     -0.2  -0.2   0.4   3     = code - u inside, code where clamped
    """
    start = QuantizedMatrix(
        Layout(2, "rows", 1, 1), torch.tensor([[0, 0, 2, 3, 3]], dtype=torch.uint8),
        torch.tensor([0.5], dtype=torch.float16), torch.tensor([-1.0], dtype=torch.float16),
    )  # fmt: skip
    matrix = lsq.trained(torch.zeros(1, 5), start)
    with torch.no_grad():
        matrix.latent.copy_(torch.tensor([[-1.4, -0.9, 0.1, 0.3, 1.0]]))
    upstream = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    found = matrix()
    assert found.tolist() == [[-1.0, -1.0, 0.0, 0.5, 0.5]]
    found.backward(upstream)
    assert matrix.latent.grad.tolist() == [[0.0, 2.0, 3.0, 4.0, 0.0]]
    expected = 0 * 1 - 0.2 * 2 - 0.2 * 3 + 0.4 * 4 + 3 * 5
    assert matrix.ranges["scale"].grad.item() == pytest.approx(expected, rel=1e-5)
    assert matrix.ranges["offset"].grad.item() == pytest.approx(1.0 + 5.0)


@pytest.mark.parametrize("form", lsq.FORMS)
@pytest.mark.parametrize("grouping", GROUPINGS)
def test_gradients_are_those_of_the_smooth_surrogate(form, grouping):
    """With every rounding replaced by adding what it added, which is smooth, central differences in float64 agree."""
    bits = 2 if form == "ternary" else 3
    matrix = lsq.trained(*quantized(bits, grouping, form))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        matrix.latent += 0.8 * torch.randn(matrix.latent.shape, generator=generator)
    upstream = torch.randn(matrix.shape, generator=generator)
    (matrix() * upstream).sum().backward()
    point = {"latent": matrix.latent.detach().double()}
    point |= {name: parameter.detach().double() for name, parameter in matrix.ranges.items()}
    top = {"symmetric": 6, "ternary": 2}.get(form, 7)
    added = {}  # by each rounding, at the point

    def rounded(name, values, rounding):
        return values + added.setdefault(name, rounding(values.float()).double() - values)

    def clamped(name, values):
        """Clamped for good where it is at the point: at an end itself the surrogate has no kink."""
        cut = added.setdefault(f"{name} cut", (values < -0.5) | (values > top + 0.5))
        return torch.where(cut, values.detach().clamp(0, top).round(), values)

    def surrogate(at):
        scale = rounded("scale", at["scale"], to_half)
        if form == "offset":
            offset = rounded("offset", at["offset"], to_half)
        elif form in ("symmetric", "signed", "ternary"):
            offset = -{"symmetric": 3, "signed": 4, "ternary": 1}[form] * scale
        else:
            offset = -clamped("zero", rounded("zero", at["zero"], torch.round)) * scale
        codes = clamped("codes", rounded("codes", (at["latent"] - offset) / scale, torch.round))
        return ((codes * scale + offset).reshape(matrix.shape) * upstream).sum()

    surrogate(point)
    step = 1e-6
    for name, values in point.items():
        gradient = (matrix.latent if name == "latent" else matrix.ranges[name]).grad
        for index in range(0, values.numel(), max(1, values.numel() // 16)):
            ends = []
            for sign in (1, -1):
                moved = values.clone()
                moved.view(-1)[index] += sign * step
                ends.append(surrogate(point | {name: moved}))
            slope = float(ends[0] - ends[1]) / (2 * step)
            assert float(gradient.view(-1)[index]) == pytest.approx(slope, rel=1e-3, abs=1e-3), (name, index)


def test_min_max_ranges_pass_gradients_unchanged():
    """The ranges are no parameters: each weight's gradient is that of its stored value, at a range's end too."""
    weight, start = quantized(2, "rows:heads", "offset")
    matrix = minmax.trained(weight, start)
    upstream = torch.randn(matrix.latent.shape, generator=torch.Generator().manual_seed(3))
    (matrix() * upstream).sum().backward()
    assert torch.equal(matrix.latent.grad, upstream) and not list(matrix.ranges)


@pytest.mark.parametrize("form", minmax.FORMS)
@pytest.mark.parametrize("grouping", GROUPINGS)
def test_min_max_ranges_follow_the_weights(form, grouping):
    """At the start and after any movement: what plain rounding makes of the latent weights, bit for bit."""
    weight, start = quantized(2 if form == "ternary" else 3, grouping, form)
    matrix = minmax.trained(weight, start)
    assert torch.equal(matrix(), start.dequantize())
    with torch.no_grad():
        matrix.latent *= 3
        matrix.latent[0, 0] = 40.0
    [expected] = plugins.load("quantizers", "rtn").quantize(matrix.latent.detach(), [start.layout])
    assert torch.equal(matrix(), expected.dequantize())
    assert all(torch.equal(a, b) for a, b in zip(parts(matrix.stored()), parts(expected), strict=True))


def test_min_max_ranges_start_from_nearest_codes_only():
    """Another quantizer's ranges would be lost, so they are refused."""
    weight, start = quantized(2, "rows:each", "offset", "gptq")
    with pytest.raises(UsageError, match=r"'minmax' cannot start from another quantizer's codes"):
        minmax.trained(weight, start)


@pytest.mark.parametrize("form", ["symmetric", "ternary"])
def test_symmetric_2_bits_are_ternary(form):
    """Three levels, stored in 2 bits or in 1.6: -s, 0 and s, trained or not."""
    weight, start = quantized(2, "rows:each", form)
    matrix = lsq.trained(weight, start)
    with torch.no_grad():
        matrix.latent += torch.randn(matrix.latent.shape, generator=torch.Generator().manual_seed(4))
    steps = matrix.stored().dequantize() / matrix.stored().scale.float().view(-1, 1)
    assert sorted(set(steps.round(decimals=3).abs().flatten().tolist())) == [0.0, 1.0]


def test_a_codebooks_entry_learns_from_all_that_take_it():
    """Gradients of an entry add up over its weights; a latent weight gets its own."""
    weight, start = quantized(2, "rows:1", "codebook", "kmeans")
    matrix = codebook.trained(weight, start)
    upstream = torch.randn(matrix.shape, generator=torch.Generator().manual_seed(1))
    (matrix() * upstream).sum().backward()
    assert torch.equal(matrix.latent.grad, upstream.reshape(matrix.latent.shape))
    for entry in range(4):
        expected = float(upstream[start.codes == entry].sum())
        assert float(matrix.ranges["levels"].grad[0, entry]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(("bits", "grouping", "form", "method"), CASES)
def test_training_starts_where_the_quantizer_left_off(bits, grouping, form, method):
    """The first forward pass is the dequantized matrix, and what would be stored is what was: bit for bit."""
    weight, start = quantized(bits, grouping, form, method)
    matrix = trained(weight, start)
    assert torch.equal(matrix(), start.dequantize())
    assert all(torch.equal(a, b) for a, b in zip(parts(matrix.stored()), parts(start), strict=True))
    latent = matrix.latent.detach().reshape(weight.shape)
    inside = (weight - start.dequantize()).abs() < 0.4 * (start.dequantize().abs().max() if form == "codebook" else
                                                          lsq_scale(start))  # fmt: skip
    if form != "codebook":
        torch.testing.assert_close(latent[inside], weight[inside])  # what rounding left is not lost


@pytest.mark.parametrize(("bits", "grouping", "form", "method"), CASES)
def test_centred_weights_store_the_same_and_are_far_from_other_codes(bits, grouping, form, method):
    """After any movement: the same bits stored, each latent weight at its level; under half a step changes no code."""
    matrix = trained(*quantized(bits, grouping, form, method))
    with torch.no_grad():
        matrix.latent += 0.2 * torch.randn(matrix.latent.shape, generator=torch.Generator().manual_seed(5))
    before = matrix.stored()
    matrix.centre()
    assert all(torch.equal(a, b) for a, b in zip(parts(matrix.stored()), parts(before), strict=True))
    assert torch.equal(matrix.latent.reshape(matrix.shape), before.dequantize())
    gaps = levels_apart(before)
    signs = torch.randn(matrix.latent.shape, generator=torch.Generator().manual_seed(6)).sign()
    with torch.no_grad():
        matrix.latent += 0.45 * gaps.reshape(matrix.latent.shape) * signs
    assert torch.equal(matrix.stored().codes, before.codes)


def levels_apart(matrix):
    """Distance of each weight's level from the nearest other one of its group."""
    if matrix.codebook is None:
        return lsq_scale(matrix).expand(matrix.codes.shape)
    levels = matrix.codebook.float().reshape(-1, 2**matrix.layout.bits)
    apart = (levels[:, :, None] - levels[:, None, :]).abs()
    apart[:, range(levels.shape[1]), range(levels.shape[1])] = torch.inf
    codes = matrix.codes.long().reshape(len(levels), -1)
    return apart.amin(-1).gather(1, codes).reshape(matrix.codes.shape)


def test_ranges_that_follow_the_weights_keep_them():
    """Min-max ranges are those of the latent weights, which therefore stay where they are."""
    weight, start = quantized(2, "rows:each", "offset")
    matrix = minmax.trained(weight, start)
    matrix.centre()
    assert torch.equal(matrix.latent, weight)


def lsq_scale(start):
    """Scale of each weight."""
    from qbert_opt.quantization.quantized_matrix import expand

    return expand(start.scale.float(), start.layout, *start.codes.shape)


@pytest.mark.parametrize(("bits", "grouping", "form", "method"), CASES)
def test_what_is_stored_is_what_was_trained(bits, grouping, form, method):
    """After any movement of weights and ranges: through the file's tensors and back, bit for bit."""
    matrix = trained(*quantized(bits, grouping, form, method))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in matrix.parameters():
            parameter += 0.3 * parameter.abs().mean() * torch.randn(parameter.shape, generator=generator)
    stored = matrix.stored()
    assert torch.equal(stored.dequantize(), matrix())
    again = restored(stored.layout, *stored.codes.shape, stored_parts(stored))
    assert torch.equal(again.dequantize(), matrix())
    assert int(stored.codes.max()) < 2**bits


def test_ranges_that_training_drives_to_nothing_stay_legal():
    """A scale below fp16's smallest is that; a matrix of one value is stored."""
    weight, start = quantized(2, "rows:each", "offset")
    matrix = lsq.trained(weight, start)
    with torch.no_grad():
        matrix.ranges["scale"].fill_(-1.0)
    assert torch.isfinite(matrix()).all() and (matrix.stored().scale > 0).all()
    constant = torch.full((4, 8), 1.25)
    [found] = plugins.load("quantizers", "rtn").quantize(constant, [Layout(2, "rows", 4, 1)])
    assert torch.equal(lsq.trained(constant, found)(), constant)


def parts(quantized_matrix):
    """The tensors that are written."""
    return list(stored_parts(quantized_matrix).values())
