"""Plain modules in place of transformers models: the whole path, and what a user can get wrong."""

import copy

import pytest
import torch
from torch import nn

import qbert_opt as qb
from qbert_opt.curvature.columns import output_factors
from qbert_opt.curvature.factors import factor_pass
from qbert_opt.errors import InputFileError, UsageError
from qbert_opt.models.batches import tokenize
from qbert_opt.models.modules import from_module
from qbert_opt.models.structure import profile_model
from qbert_opt.quantization.calibration import CalibrationPlan, MatrixQuantizer
from qbert_opt.scoring.metrics.directional import quadratic_forms
from qbert_opt.spec.activations import activation_grid
from qbert_opt.spec.grids import grid
from qbert_opt.workflows.verify import apply_plan

WIDTH, HEADS, CLASSES = 16, 2, 4


class Block(nn.Module):
    """Attention and feed-forward, as somebody would write them."""

    def __init__(self):
        super().__init__()
        self.to_q, self.to_k, self.to_v, self.back = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.wide, self.narrow = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x, seen):
        q, k, v = (layer(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer in (self.to_q, self.to_k, self.to_v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None, :])
        x = self.first(x + self.back(mixed.transpose(1, 2).flatten(2)))
        return self.second(x + self.narrow(nn.functional.gelu(self.wide(x))))


class Sensor(nn.Module):
    """Reads frames of numbers, not token ids; its arguments have names of their own; answers with a dict."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(5, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(2))
        self.answer = nn.Linear(WIDTH, CLASSES)
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, frames, seen):
        x = self.project(frames) * self.scale
        for layer in self.layers:
            x = layer(x, seen)
        weights = seen[:, :, None].float()
        return {"scores": self.answer((x * weights).sum(1) / weights.sum(1))}


def ask(module, given):
    """The callable that a user gives."""
    return module(given["frames"], given["attention_mask"].bool())["scores"]


def samples(count=40, seed=0):
    """Padded batches of frames of 3 to 9 steps."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count // 8):
        lengths = torch.randint(3, 10, (8,), generator=generator)
        mask = (torch.arange(9)[None] < lengths[:, None]).long()
        frames = torch.randn(8, 9, 5, generator=generator) * mask[:, :, None] + 7 * (1 - mask[:, :, None])
        batches.append({"frames": frames, "attention_mask": mask})
    return batches


@pytest.fixture(scope="module")
def sensor():
    """A module with weights far from zero."""
    torch.manual_seed(0)
    module = Sensor()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 2:
                parameter.mul_(2)
    return module


@pytest.fixture(scope="module")
def wrapped(sensor):
    """Model and samples as the rest of the package takes them."""
    return from_module(sensor, samples(), ask, name="sensor")


def test_it_answers_as_the_module_does(sensor, wrapped):
    """Whatever batches the samples come back in, every answer is the module's own; weights are shared."""
    loaded, data = wrapped
    with torch.no_grad():
        expected = torch.cat([ask(sensor, batch) for batch in samples()])
    torch.testing.assert_close(qb.outputs(loaded, data), expected, atol=1e-5, rtol=1e-4)
    assert list(dict(loaded.model.named_parameters())) == list(dict(sensor.named_parameters()))
    assert loaded.model.get_parameter("answer.weight") is sensor.answer.weight
    assert len(data) == 40 and len(set(data.texts)) == 40


def test_its_structure_is_found(sensor, wrapped):
    """Roles by data flow; every parameter in one place; no config needed."""
    profile = profile_model(wrapped[0])
    kinds = ["query", "key", "value", "attention_output", "intermediate", "output"]
    assert [m.kind for m in profile.matrices] == kinds * 2
    assert (profile.architecture, profile.heads, profile.hidden, profile.num_blocks) == ("Sensor", HEADS, WIDTH, 2)
    assert {h.module for h in profile.head} == {"project", "answer"}
    assert profile.encoder_elements + profile.other_elements == sum(p.numel() for p in sensor.parameters())


def test_its_scores_are_measured_losses(sensor, wrapped):
    """A small change of a weight costs what the directional form says."""
    loaded, data = wrapped
    model = copy.deepcopy(loaded.model).double()
    batches = tokenize(loaded.tokenizer, data.texts, batch_size=8)
    for batch in batches:
        batch.inputs["frames"] = batch.inputs["frames"].double()
    module = "layers.1.wide"
    factors = factor_pass(model, batches, [module], head=loaded.head)[module]
    weight = model.get_parameter(f"{module}.weight")
    change = 1e-4 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    predicted = float(quadratic_forms(factors, change[None]).value)

    def log_probabilities():
        with torch.no_grad():
            return torch.cat([model(**b.inputs) for b in batches]).log_softmax(-1)

    before = log_probabilities()
    with torch.no_grad():
        weight += change
    after = log_probabilities()
    measured = float((before.exp() * (before - after)).sum(1).mean())
    assert measured / predicted == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("method", ["rtn", "gptq", "guided"])
def test_the_whole_path(sensor, wrapped, method, tmp_path):
    """Scores, plan, quantized folder, back into the module, measured: as with a transformers model."""
    loaded, data = wrapped
    scores = qb.measure_sensitivity(
        loaded, data, grid((2, 4, 8), ("rows:each", "columns:16"), method), plan=CalibrationPlan(16, 16, 0),
        activation_choices=activation_grid((8,)),
    )  # fmt: skip
    plan = qb.allocate(scores, qb.Limits(encoder_bytes=3500), activations=activation_grid((8,)))
    written = qb.quantize_model(loaded, plan, data, tmp_path / "out")
    assert written.tensor_bytes == plan.total_bytes
    assert not (tmp_path / "out" / "config.json").exists()
    with pytest.raises(InputFileError, match=r"For a plain module, pass it as argument into"):
        qb.load_quantized(tmp_path / "out")
    assert written.read_back.num_texts > 0 and written.read_back.loss_unit == loaded.head.loss_unit
    back, _ = qb.load_quantized(tmp_path / "out", into=loaded)
    assert back.model.scale == 2
    if method == "rtn":
        verified = apply_plan(loaded, plan, MatrixQuantizer(loaded, plan.profile, method, None))
        torch.testing.assert_close(qb.outputs(back, data), qb.outputs(verified, data))
    truth = qb.outputs(loaded, data)
    found = qb.evaluate(back, data, truth)
    assert 0 < found.kl.value < 0.2
    assert sensor.layers[0].to_q.weight is loaded.model.get_parameter("layers.0.to_q.weight")  # the original is whole
    assert not torch.equal(back.model.get_parameter("layers.0.to_q.weight"), sensor.layers[0].to_q.weight)


def test_labels_are_class_numbers(sensor):
    """Accuracy of the module's own answers is 1."""
    loaded, data = from_module(sensor, samples(16), ask, name="sensor")
    right = qb.outputs(loaded, data).argmax(-1).tolist()
    loaded, data = from_module(sensor, samples(16), ask, labels=right)
    assert qb.evaluate(loaded, data).accuracy.value == 1
    with pytest.raises(InputFileError, match=r"has label '9'. module knows 0, 1, 2, 3"):
        qb.evaluate(*from_module(sensor, samples(16), ask, labels=[9] * 16))


def test_samples_without_a_mask_are_not_padded():
    """Without a mask a module cannot know what is padding: batches hold one length each. Positions can be tagged."""

    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(11, WIDTH)
            self.steps = nn.ModuleList([nn.Linear(WIDTH, WIDTH)])
            self.out = nn.Linear(WIDTH, 3)

        def forward(self, ids):
            return self.out(torch.tanh(self.steps[0](self.embed(ids))))

    torch.manual_seed(0)
    given = [{"ids": torch.randint(0, 11, (1, length))} for length in (3, 5, 3, 4, 5, 5, 3, 6)]
    loaded, data = from_module(Tagger(), given, lambda module, batch: module(batch["ids"]), kind="tags")
    batches = tokenize(loaded.tokenizer, data.texts, batch_size=2, kind="tags")
    assert [len(batch.indices) for batch in batches] == [2, 1, 1, 2, 1, 1]
    assert len(qb.outputs(loaded, data)) == sum(g["ids"].shape[1] for g in given)
    scores = qb.measure_sensitivity(loaded, data, grid((4, 8), ("rows:1",), "rtn"), plan=CalibrationPlan(3, 4, 0))
    assert scores.value[0][0] > scores.value[0][1] > 0
    assert scores.loss_unit.endswith("per word")


def test_torchs_own_encoder_layers():
    """nn.TransformerEncoder: its linear layers are planned, its fused attention weights are counted with the rest."""
    torch.manual_seed(0)
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(WIDTH, HEADS, 32, batch_first=True), 2, enable_nested_tensor=False
    )

    def answer(module, given):
        return module(given["frames"], src_key_padding_mask=~given["attention_mask"].bool())[:, 0]

    batches = [{"frames": b["frames"] @ torch.ones(5, WIDTH), "attention_mask": b["attention_mask"]} for b in samples()]
    loaded, data = from_module(encoder, batches, answer, kind="embeddings")
    scores = qb.measure_sensitivity(loaded, data, grid((2, 8), ("rows:1",), "gptq"), plan=CalibrationPlan(16, 16, 0))
    assert [m.module for m in scores.profile.matrices] == [f"layers.{i}.linear{j}" for i in (0, 1) for j in (1, 2)]
    assert all(row[0] > row[1] > 0 for row in scores.value)


def test_what_is_refused(sensor):
    """One line each: spans, no samples, too few labels, broken weights, training mode."""
    with pytest.raises(UsageError, match=r"kind 'spans': not supported. Legal: classes, tags"):
        from_module(sensor, samples(), ask, kind="spans")
    with pytest.raises(UsageError, match=r"inputs: no samples"):
        from_module(sensor, [], ask)
    with pytest.raises(UsageError, match=r"labels: 2 for 40 samples of classes"):
        from_module(sensor, samples(), ask, labels=[0, 1])
    broken = copy.deepcopy(sensor)
    with torch.no_grad():
        broken.answer.bias[0] = float("nan")
    with pytest.raises(InputFileError, match=r"module: answer.bias holds NaN"):
        from_module(broken, samples(), ask)
    loaded, data = from_module(sensor, samples(), ask)
    loaded.model.layers[0].train()
    try:
        with pytest.raises(UsageError, match=r"layers.0 is in training mode"):
            qb.measure_sensitivity(loaded, data, grid((8,), ("rows:1",), "rtn"), plan=CalibrationPlan(8, 8, 0))
    finally:
        sensor.eval()


def test_layers_that_write_into_their_results():
    """Activations and biases written in place change no gradient: as in ½ (∂f/∂W · ΔW)² by autograd."""

    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(9, WIDTH)
            self.layers = nn.ModuleList([nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)])
            self.conv = nn.ModuleList([nn.Conv1d(WIDTH, WIDTH, 1)])
            self.out = nn.Linear(WIDTH, 2)

        def forward(self, ids):
            x = self.embed(ids)
            x *= 2
            x = nn.functional.relu(self.layers[0](x), inplace=True)
            x = self.layers[1](x).mul_(3)
            x = self.conv[0](x.transpose(1, 2))
            x.tanh_()
            return self.out(x.mean(2))

    torch.manual_seed(0)
    module = InPlace()
    given = [{"ids": torch.randint(0, 9, (4, 5))}]
    loaded, data = from_module(module, given, lambda module, batch: module(batch["ids"]))
    batches = tokenize(loaded.tokenizer, data.texts, batch_size=4)
    names = ["layers.0", "layers.1", "conv.0"]
    found = factor_pass(loaded.model, batches, [*names, "embed"], head=loaded.head)
    [batch] = batches
    for place, index in enumerate(batch.indices):
        outputs = module(batch.inputs["ids"][place : place + 1])
        summed = (output_factors(outputs)[0, :, 0] * outputs[0]).sum()
        [dense] = torch.autograd.grad(summed, module.layers[0].weight, retain_graph=True)
        summed = summed * (found["layers.0"][index].jacobian()[0] * dense).sum().sign()  # a factor has no sign
        for name in names:
            [dense] = torch.autograd.grad(summed, module.get_parameter(f"{name}.weight"), retain_graph=True)
            torch.testing.assert_close(found[name][index].jacobian()[0], dense.flatten(1), rtol=1e-3, atol=1e-6)
        [dense] = torch.autograd.grad(summed, module.embed.weight, retain_graph=True)
        rows = torch.zeros_like(dense).index_add_(
            0, found["embed"][index].inputs[:, 0].long(), found["embed"][index].gradients[0]
        )
        torch.testing.assert_close(rows, dense, rtol=1e-3, atol=1e-6)
