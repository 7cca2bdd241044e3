"""Convolutions over positions as matrices of windows: against torch's own, dense gradients, and the whole path."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import qbert_opt as qb
from qbert_opt.checkpoint.packed_modules import PackedConv1d, unpack_modules
from qbert_opt.checkpoint.reader import open_packed
from qbert_opt.costs.simulate import simulate_allocation
from qbert_opt.curvature.capture import input_grams
from qbert_opt.curvature.columns import output_factors
from qbert_opt.curvature.factors import factor_pass
from qbert_opt.errors import UsageError
from qbert_opt.models.batches import single_samples, tokenize
from qbert_opt.models.layers import is_matrix, matrix_of, windows
from qbert_opt.models.modules import from_module
from qbert_opt.models.structure import profile_model
from qbert_opt.quantization.calibration import CalibrationPlan, MatrixQuantizer, calibration_texts, weight_of
from qbert_opt.scoring.metrics.directional import quadratic_forms
from qbert_opt.spec.activations import activation_grid
from qbert_opt.spec.grids import grid
from qbert_opt.workflows.verify import apply_plan

WIDTH = 8


class Block(nn.Module):
    """A wide and a narrow convolution, a grouped one between, all blind to padding."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv1d(WIDTH, 24, 3, padding=1)
        self.depthwise = nn.Conv1d(24, 24, 3, padding=1, groups=24)
        self.narrow = nn.Conv1d(24, WIDTH, 1)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x, seen):
        y = torch.tanh(self.wide(x.transpose(1, 2) * seen) * seen)
        y = self.narrow(self.depthwise(y) * seen) * seen
        return self.norm(x + y.transpose(1, 2))


class Listener(nn.Module):
    """Two blocks of convolutions over token embeddings."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.answer = nn.Linear(WIDTH, 3)

    def forward(self, ids, seen):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, seen[:, None].to(x.dtype))
        weights = seen[:, :, None].to(x.dtype)
        return self.answer((x * weights).sum(1) / weights.sum(1))


@pytest.fixture(scope="module")
def wrapped():
    """The model and 40 padded samples of 3 to 9 tokens."""
    torch.manual_seed(0)
    module = Listener()
    lengths = torch.randint(3, 10, (40,))
    mask = (torch.arange(9)[None] < lengths[:, None]).long()
    batch = {"ids": torch.randint(1, 30, (40, 9)) * mask, "attention_mask": mask}
    return from_module(module, [batch], lambda model, given: model(given["ids"], given["attention_mask"]))


@pytest.fixture(scope="module")
def batches(wrapped):
    """Those samples in padded batches."""
    return tokenize(wrapped[0].tokenizer, wrapped[1].texts, batch_size=16)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(
    "shape",
    [
        {"kernel_size": 1}, {"kernel_size": 3, "padding": 1}, {"kernel_size": 5, "padding": 4, "dilation": 2},
        {"kernel_size": 4, "padding": "same"}, {"kernel_size": 2, "padding": "same", "dilation": 3},
    ],
)  # fmt: skip
def test_windows_times_the_matrix_are_the_convolution(shape):
    """Kernels of any size, dilation and padding that keep the positions."""
    layer = nn.Conv1d(5, 7, **shape)
    given = torch.randn(2, 5, 11)
    assert is_matrix(layer)
    with torch.no_grad():
        found = windows(layer, given) @ matrix_of(layer).T + layer.bias
        torch.testing.assert_close(found.transpose(1, 2), layer(given))


def test_what_is_no_matrix():
    """Groups, strides, other lengths and reflected borders are left as they are."""
    for layer in (
        nn.Conv1d(4, 4, 3, padding=1, groups=2), nn.Conv1d(4, 4, 3, padding=1, stride=2), nn.Conv1d(4, 4, 3),
        nn.Conv1d(4, 4, 3, padding=1, padding_mode="reflect"), nn.Conv1d(4, 4, 4, padding=2), nn.Conv2d(4, 4, 1),
    ):  # fmt: skip
        assert not is_matrix(layer)


def test_the_profile_has_them(wrapped):
    """Matrices [out, in * kernel] with the roles of a feed-forward; the grouped one counts with the rest."""
    loaded, _ = wrapped
    profile = profile_model(loaded)
    assert [(m.module, m.rows, m.columns) for m in profile.matrices] == [
        (f"blocks.{i}.{name}", rows, columns)
        for i in (0, 1)
        for name, rows, columns in (("wide", 24, 24), ("narrow", 8, 24))
    ]
    total = sum(p.numel() for p in loaded.model.parameters())
    assert profile.encoder_elements + 30 * WIDTH + profile.other_elements == total


def test_factors_are_the_dense_gradients(wrapped, batches):
    """Σ_t g aᵀ of each sample and factor is autograd's gradient of the weight, sample by sample."""
    loaded, _ = wrapped
    names = [m.module for m in profile_model(loaded).matrices]
    found = factor_pass(loaded.model, batches, names, head=loaded.head)
    for sample in single_samples(batches)[:6]:
        [index] = sample.indices
        outputs = loaded.model(**sample.inputs)
        factors = output_factors(outputs)
        for name in names:
            jacobian = found[name][index].jacobian()
            for f in range(2):
                [dense] = torch.autograd.grad(
                    (factors[:, :, f] * outputs).sum(), loaded.model.get_parameter(f"{name}.weight"), retain_graph=True
                )
                torch.testing.assert_close(jacobian[f], dense.flatten(1), rtol=1e-3, atol=1e-6)


def test_second_moments_are_of_real_windows(wrapped, batches):
    """The mean of a aᵀ over windows around real tokens, from texts without padding."""
    loaded, _ = wrapped
    name = "blocks.0.wide"
    rows = []
    layer = loaded.model.get_submodule(name)
    handle = layer.register_forward_pre_hook(lambda m, args: rows.append(windows(m, args[0])[0]))
    with torch.no_grad():
        for sample in single_samples(batches):
            loaded.model(**sample.inputs)
    handle.remove()
    stacked = torch.cat(rows)
    gram = input_grams(loaded.model, batches, [name])[name]
    torch.testing.assert_close(gram, stacked.T @ stacked / len(stacked), rtol=1e-4, atol=1e-5)


def test_scores_are_measured_losses(wrapped, batches):
    """A small change of a convolution costs what the directional form says."""
    loaded, _ = wrapped
    model = copy.deepcopy(loaded.model).double()
    for name in ("blocks.0.wide", "blocks.1.narrow"):
        samples = factor_pass(model, batches, [name], head=loaded.head)[name]
        matrix = weight_of(model, name)
        change = 1e-4 * torch.randn(matrix.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        predicted = float(quadratic_forms(samples, change[None]).value)
        with torch.no_grad():
            before = torch.cat([model(**b.inputs) for b in batches]).log_softmax(-1)
            matrix += change
            after = torch.cat([model(**b.inputs) for b in batches]).log_softmax(-1)
            matrix -= change
        measured = float((before.exp() * (before - after)).sum(1).mean())
        assert measured / predicted == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_the_whole_path(wrapped, method, tmp_path, car_soc):
    """Scored, measured one by one, planned, priced, written and read back."""
    loaded, data = wrapped
    choices = grid((2, 4, 8), ("rows:1", "rows:each", "columns:8"), method)
    plan = CalibrationPlan(16, 20, 0)
    scores = qb.measure_sensitivity(
        loaded, data, choices, plan=plan, activation_choices=activation_grid((8,)) if method == "rtn" else ()
    )
    assert scores.activations is None  # inputs of convolutions stay in floats
    truth = qb.measure_sensitivity(loaded, data, choices, metric="measured", plan=plan)
    for row, measured in zip(scores.value, truth.value, strict=True):
        j = scores.choices.index(f"4bit/rows:each/{method}")
        assert 0.3 < row[j] / measured[j] < 3
    allocation = qb.allocate(scores, qb.Limits(encoder_bytes=700))
    assert simulate_allocation(allocation, car_soc, qb.Workload(16)).weight_bytes == allocation.total_bytes
    written = qb.quantize_model(loaded, allocation, data, tmp_path / "out", method=method)
    assert written.tensor_bytes == allocation.total_bytes
    back, _ = qb.load_quantized(tmp_path / "out", into=loaded)
    fit, _ = calibration_texts(data, plan)
    quantizer = MatrixQuantizer(loaded, allocation.profile, method, fit)
    torch.testing.assert_close(
        qb.outputs(back, data), qb.outputs(apply_plan(loaded, allocation, quantizer), data), rtol=1e-4, atol=1e-5
    )
    assert back.model.get_parameter("blocks.0.wide.weight").shape == (24, WIDTH, 3)


def test_a_transformer_with_convolutions(tmp_path, sentences):
    """ConvBERT: its pointwise convolutions are searched, depthwise ones are not; engines say that they take none."""
    import transformers
    from families import WORDS, tokenizer

    from qbert_opt.models.loading import load_model
    from qbert_opt.workflows.export import export_model

    torch.manual_seed(0)
    config = transformers.ConvBertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=40, embedding_size=32, initializer_range=0.3, num_labels=3, head_ratio=2,
        conv_kernel_size=3,
    )  # fmt: skip
    folder = tmp_path / "model"
    transformers.ConvBertForSequenceClassification(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    loaded = load_model(folder)
    profile = profile_model(loaded)
    found = [m.module for m in profile.matrices if isinstance(loaded.model.get_submodule(m.module), nn.Conv1d)]
    assert [name.rsplit(".", 1)[-1] for name in found] == ["pointwise"] * 2
    data = replace(sentences, labels=None)
    scores = qb.measure_sensitivity(loaded, data, grid((4, 8), ("rows:1",), "gptq"), plan=CalibrationPlan(20, 20, 0))
    assert all(row[0] > row[1] > 0 for row in scores.value)
    allocation = qb.allocate(scores, qb.Limits(encoder_bytes=profile.encoder_elements * 6 // 8))
    qb.quantize_model(loaded, allocation, data, tmp_path / "out")
    back, _ = qb.load_quantized(tmp_path / "out")
    assert qb.evaluate(back, data, qb.outputs(loaded, data)).kl.value < 0.5
    packed = open_packed(tmp_path / "out")
    assert isinstance(packed.model.get_submodule(found[0]), PackedConv1d)
    torch.testing.assert_close(qb.outputs(packed, data), qb.outputs(back, data), rtol=1e-4, atol=1e-5)
    unpack_modules(packed.model)
    assert isinstance(packed.model.get_submodule(found[0]), nn.Conv1d)
    torch.testing.assert_close(qb.outputs(packed, data), qb.outputs(back, data), rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match=r"pointwise is a convolution; only torch runs it from its codes"):
        export_model(tmp_path / "out", "openvino", tmp_path / "ov")
