"""Rounded inputs in training: forward as deployed, gradients by hand and by finite differences, written ranges."""

import pytest
import torch
from torch import nn

from qbert_opt.checkpoint.reader import load_quantized
from qbert_opt.evaluation.evaluate import outputs
from qbert_opt.quantization.activation_quant import round_activations
from qbert_opt.spec.allocation import read_allocation
from qbert_opt.spec.planned import PlannedActivation
from qbert_opt.training.rounded_inputs import LearnedRange, TrainedRounder
from qbert_opt.training.settings import RecoverySettings
from qbert_opt.workflows.recover import recover


def planned(low, high, modules=("m",), bits=8):
    return PlannedActivation(
        modules=modules, bits=bits, scheme="tensor", range="minmax", low=low, high=high, predicted_loss=0.0,
        std_error=0.0,
    )  # fmt: skip


def rounded(values, bits, made):
    [found] = TrainedRounder(bits, made)(nn.Identity(), (values,))
    return found


def test_each_token_has_its_own_range():
    """Forward as deployed, backward unchanged."""
    values = torch.linspace(-2, 2, 9).requires_grad_(True)
    found = rounded(values, 8, None)
    assert torch.equal(found, round_activations(values.detach(), 8))
    found.sum().backward()
    assert values.grad.tolist() == [1.0] * 9


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize("ends", [(-1.0, 1.5), (0.0, 3.0), (-0.1, 2.0)])
def test_a_learned_range_rounds_as_deployed(bits, ends):
    """Bit for bit at the start and at any other range, which is the one that is written."""
    values = 2 * torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    made = LearnedRange(planned(*ends))
    assert torch.equal(rounded(values, bits, made), round_activations(values, bits, *ends))
    with torch.no_grad():
        made.factors += torch.tensor([0.3, -0.2])
    after = made.planned(planned(*ends))
    assert (after.low, after.high) != ends and after.low <= 0 <= after.high
    assert torch.equal(rounded(values, bits, made), round_activations(values, bits, after.low, after.high))
    with torch.no_grad():
        made.factors -= 5  # an end does not cross zero
    after = made.planned(planned(*ends))
    assert after.low <= 0 < after.high
    assert torch.equal(rounded(values, bits, made), round_activations(values, bits, after.low, after.high))


def test_gradients_by_hand():
    """2 bits in [0, 3]: s = 1, z = 0. Values beyond get none; the upper end gets theirs, and (q - v) / 3 inside.

    value     -1    0.4   1.6   2.0   5.0
    code       0    0     2     2     3
    upper      0   -0.4/3 0.4/3 0     1      (code 3 times ds/dh = 1/3)
    """
    made = LearnedRange(planned(0.0, 3.0))
    values = torch.tensor([-1.0, 0.4, 1.6, 2.0, 5.0], requires_grad=True)
    upstream = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    found = rounded(values, 2, made)
    assert found.tolist() == [0.0, 0.0, 2.0, 2.0, 3.0]
    found.backward(upstream)
    assert values.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 0.0]
    expected = -0.4 / 3 * 2 + 0.4 / 3 * 3 + 5  # by the end; times 3 by its factor
    assert made.factors.grad[1].item() == pytest.approx(3 * expected, rel=1e-5)


def test_gradients_at_4_bits_by_hand():
    """-5 to 10 in steps of s = 1, zero at code 5: a value beyond an end gives that end its whole gradient.

    value       -8   -2.3     0.4      3.8     14
    rounded     -5   -2       0        4       10
    upper end    0    0.3/15  -0.4/15  0.2/15  1       (rounded - value) / 15 inside, since s = (h - l) / 15
    lower end    1   -0.3/15   0.4/15 -0.2/15  0
    """
    made = LearnedRange(planned(-5.0, 10.0, bits=4))
    values = torch.tensor([-8.0, -2.3, 0.4, 3.8, 14.0], requires_grad=True)
    upstream = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    found = rounded(values, 4, made)
    assert found.tolist() == [-5.0, -2.0, 0.0, 4.0, 10.0]
    found.backward(upstream)
    assert values.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 0.0]
    inside = (2 * 0.3 - 3 * 0.4 + 4 * 0.2) / 15
    assert made.factors.grad.tolist() == pytest.approx([-5 * (1 - inside), 10 * (5 + inside)], rel=1e-5)


@pytest.mark.parametrize("end", [0, 1])
def test_gradients_are_those_of_the_smooth_surrogate(end):
    """With what each rounding added held fixed, central differences in float64 agree, clipped values included."""
    values = 2 * torch.randn(200, generator=torch.Generator().manual_seed(1))
    upstream = torch.randn(200, generator=torch.Generator().manual_seed(2))
    made = LearnedRange(planned(-1.3, 2.1))
    (rounded(values, 4, made) * upstream).sum().backward()
    start, v, top = torch.tensor([-1.3, 2.1]).double(), values.double(), 15
    s0 = float((start[1] - start[0]) / top)
    z0 = round(float(-start[0] / s0))
    added = (v / s0).round() - v / s0
    raw = (v / s0).round() + z0
    zero_added = z0 - float(-start[0] / s0)

    def surrogate(factors):
        low, high = start * factors
        s = (high - low) / top
        z = -low / s + zero_added
        codes = torch.where(
            raw < 0, torch.zeros_like(v), torch.where(raw > top, torch.full_like(v, top), v / s + added + z)
        )
        return float(((codes - z) * s * upstream).sum())

    step = 1e-6
    shift = torch.zeros(2).double()
    shift[end] = step
    slope = (surrogate(torch.ones(2) + shift) - surrogate(torch.ones(2) - shift)) / (2 * step)
    assert made.factors.grad[end].item() == pytest.approx(slope, rel=1e-3)


def test_ranges_are_trained_and_written(tiny, tiny_start, file_texts, tmp_path):
    """Ranges that are too narrow move, the loss falls, and the folder answers as the student with the new ranges."""
    plan, _ = tiny_start
    inputs = tuple(planned(-0.4, 0.4, (matrix.module,)) for matrix in plan.matrices)
    narrow = plan.model_copy(update={"activations": inputs})
    settings = RecoverySettings(steps=("ranges",), epochs={"ranges": 6}, rates={"ranges": (0.0, 2e-2)}, batch_size=8)
    last = []
    found = recover(
        tiny, narrow, [file_texts], tmp_path / "out", settings=settings,
        phase_over=lambda record, student: last.append(outputs(student, file_texts)),
    )  # fmt: skip
    assert found.best_loss < 0.9 * found.start_loss
    written = read_allocation(tmp_path / "out" / "allocation.json")
    assert written.activations == found.plan.activations
    assert all((item.low, item.high) != (-0.4, 0.4) for item in written.activations)
    assert max(item.high for item in written.activations) > 0.42
    assert torch.equal(outputs(load_quantized(tmp_path / "out")[0], file_texts), last[-1])


@pytest.mark.parametrize(("step", "rates"), [("ranges", (0.0, 1e-2)), ("blocks", (1e-3, 1e-2))])
def test_a_plan_of_4_bit_inputs_is_trained_and_written(tiny, tiny_start, file_texts, tmp_path, step, rates):
    """One range per token and learned ranges side by side: the folder answers as the student of the last step did."""
    plan, _ = tiny_start
    by_token = {"scheme": "token", "range": None, "low": None, "high": None}
    inputs = tuple(
        planned(-1.5, 1.5, (matrix.module,), 4).model_copy(update=by_token if i % 2 else {})
        for i, matrix in enumerate(plan.matrices)
    )
    rough = plan.model_copy(update={"activations": inputs})
    settings = RecoverySettings(steps=(step,), epochs={step: 4}, rates={step: rates}, batch_size=8)
    last = []
    found = recover(
        tiny, rough, [file_texts], tmp_path / "out", settings=settings,
        phase_over=lambda record, student: last.append((record, outputs(student, file_texts))),
    )  # fmt: skip
    assert found.best_loss < found.start_loss
    written = read_allocation(tmp_path / "out" / "allocation.json").activations
    assert [(item.bits, item.scheme) for item in written] == [(4, item.scheme) for item in inputs]
    assert all(item.low is None for item in written[1::2])
    assert any((item.low, item.high) != (-1.5, 1.5) for item in written[::2])
    answers = outputs(load_quantized(tmp_path / "out")[0], file_texts)
    kept = [phase for _, phase in last if torch.equal(phase, answers)]
    assert kept, "the folder answers as no phase of the training did"
