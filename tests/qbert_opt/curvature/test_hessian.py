"""Hessian products and eigenvalues against dense matrices, and Q-BERT's metric against its formula."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.sparse.linalg import aslinearoperator
from torch import nn

from qbert_opt.curvature import gauss_newton
from qbert_opt.curvature.factors import SampleFactors, factor_pass
from qbert_opt.curvature.hessian import ArpackNoConvergence, EigenPair, HessianOperator, top_eigenvalue
from qbert_opt.curvature.hutchinson import trace_draw
from qbert_opt.curvature.losses import LabelledLoss, OutputDistance
from qbert_opt.errors import UsageError
from qbert_opt.models.batches import TokenBatch, tokenize
from qbert_opt.models.labels import label_ids
from qbert_opt.models.outputs import Head
from qbert_opt.models.structure import profile_model
from qbert_opt.models.targets import NONE, Targets
from qbert_opt.quantization.calibration import MatrixQuantizer
from qbert_opt.runtime import plugins
from qbert_opt.runtime.memory_budget import MemoryShares
from qbert_opt.runtime.resumable import Jobs
from qbert_opt.scoring import hessian_operators
from qbert_opt.scoring.hessian_operators import omega, omega_error, text_slices
from qbert_opt.scoring.metrics import qbert
from qbert_opt.scoring.task import ScoringTask
from qbert_opt.spec.grids import grid


class TinyNetwork(nn.Module):
    """Two layers with a smooth bend, called as transformers models are."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.second(torch.tanh(self.first(x))))


HEAD = Head("classes", 3, lambda model, batch: model(**batch.inputs).logits)


def loss_of(model, labels):
    """Cross-entropy of a classifier that is no transformers model."""
    return LabelledLoss(model, HEAD, Targets("classes", labels, torch.arange(len(labels))))


@pytest.fixture(scope="module")
def network():
    """A float64 network, 11 samples in uneven batches whose order is not that of the labels."""
    torch.manual_seed(0)
    model = TinyNetwork().double()
    x = torch.randn(11, 4, dtype=torch.float64)
    groups = ((7, 2, 9), (0, 1, 3, 4), (10, 8, 6, 5))
    batches = [TokenBatch({"x": x[list(g)], "attention_mask": torch.ones(len(g), 1)}, g) for g in groups]
    return model, x, torch.randint(0, 3, (11,)), batches


def dense_hessian(network, names):
    model, x, labels, _ = network
    parameters = dict(model.named_parameters())
    sizes = [parameters[name].numel() for name in names]

    def loss(flat):
        parts = flat.split(sizes)
        changed = {name: part.view_as(parameters[name]) for name, part in zip(names, parts, strict=True)}
        out = torch.func.functional_call(model, changed, kwargs={"x": x, "attention_mask": None})
        return nn.functional.cross_entropy(out.logits, labels)

    flat = torch.cat([parameters[name].detach().flatten() for name in names])
    return torch.func.hessian(loss)(flat).detach()


@pytest.mark.parametrize(
    "names", [["first.weight"], ["second.bias", "first.weight"], ["first.weight", "first.bias", "second.weight"]]
)
def test_products_are_those_of_the_dense_hessian(network, names):
    """H v equals the dense Hessian of the mean loss times v, whatever the batches, to 1e-8."""
    model, _, labels, batches = network
    operator = HessianOperator(loss_of(model, labels), [model.get_parameter(n) for n in names], batches)
    dense = dense_hessian(network, names).numpy()
    assert operator.shape == dense.shape
    np.testing.assert_allclose(operator @ np.eye(len(dense)), dense, atol=1e-8, rtol=0)
    assert operator.num_products == len(dense)


def test_products_over_words_weigh_words_and_not_samples(network):
    """Tags: the mean is over labelled words that have an answer, whatever samples and batches they are in."""
    model = network[0]
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(5, 6, 4, dtype=torch.float64, generator=generator)
    words = torch.rand(5, 6, generator=generator) < 0.6
    samples = words.nonzero()[:, 0]
    answers = torch.randint(0, 3, (len(samples),), generator=generator)
    answers[[0, 7]] = NONE
    head = Head("tags", 3, lambda model, batch: model(**batch.inputs).logits)
    loss = LabelledLoss(model, head, Targets("tags", answers, samples))
    batches = [
        TokenBatch({"x": x[list(g)], "attention_mask": torch.ones(len(g), 6)}, g, words[list(g)])
        for g in ((4, 1), (0, 2, 3))
    ]
    kept = answers != NONE
    flat = network[0], x[words][kept], answers[kept], None
    operator = HessianOperator(loss, [model.get_parameter("first.weight")], batches)
    np.testing.assert_allclose(operator @ np.eye(20), dense_hessian(flat, ["first.weight"]), atol=1e-8, rtol=0)
    assert sum(operator.batch_rows) == int(kept.sum())


@pytest.mark.parametrize("kind", ["embeddings", "regression"])
def test_without_a_softmax_the_hessian_is_that_of_the_distance_to_the_own_outputs(network, kind):
    """Mean 2 JᵀJ, over the squared length of the outputs for embeddings; the gradient is zero."""
    model, x, _, batches = network
    head = Head(kind, 3, lambda model, batch: model(**batch.inputs).logits)
    weight = model.get_parameter("first.weight")

    def outputs(flat):
        changed = {"first.weight": flat.view_as(weight)}
        return torch.func.functional_call(model, changed, kwargs={"x": x, "attention_mask": None}).logits

    flat = weight.detach().flatten()
    jacobian, values = torch.func.jacrev(outputs)(flat), outputs(flat).detach()
    scale = 2 / (values.square().sum(1) if kind == "embeddings" else torch.ones(len(x)))
    dense = torch.einsum("nci,n,ncj->ij", jacobian, scale.to(jacobian), jacobian) / len(x)
    operator = HessianOperator(OutputDistance(model, head), [weight], batches)
    np.testing.assert_allclose(operator @ np.eye(20), dense.detach().numpy(), atol=1e-8, rtol=0)
    np.testing.assert_allclose(operator.mean_gradient(), 0, atol=1e-12)


def test_top_eigenvalue_of_a_network(network):
    """The eigenvalue of largest magnitude, sign kept, to the tolerance asked for."""
    model, _, labels, batches = network
    names = [name for name, _ in model.named_parameters()]
    operator = HessianOperator(loss_of(model, labels), list(model.parameters()), batches)
    values = np.linalg.eigvalsh(dense_hessian(network, names).numpy())
    expected = values[np.abs(values).argmax()]
    assert top_eigenvalue(operator, seed=0, tolerance=1e-6) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("top", [-7.0, 7.0])
def test_the_sign_is_kept(top, seed):
    """A dominant negative eigenvalue comes back negative."""
    generator = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(generator.standard_normal((40, 40)))
    values = generator.uniform(-5, 5, 40)
    values[3] = top
    operator = aslinearoperator(basis @ np.diag(values) @ basis.T)
    assert top_eigenvalue(operator, seed=seed) == pytest.approx(top, rel=1e-2)


@pytest.fixture(scope="module")
def task(tiny, sentences):
    """A scoring task over the tiny BERT with its default attention."""
    profile = profile_model(tiny)
    sample = sentences.take(range(40))
    quantizer = MatrixQuantizer(tiny, profile, "rtn", None)
    choices = grid((2, 4), ("rows:1", "columns:32"), "rtn")
    return ScoringTask(
        model=tiny.model,
        profile=profile,
        batches=tokenize(tiny.tokenizer, sample.texts, batch_size=16),
        targets=Targets(
            "classes",
            torch.tensor(label_ids(tiny.labels, sample.labels, source="sample", model="tiny")),
            torch.arange(len(sample)),
        ),
        perturbations=lambda matrix: iter([quantizer.errors(matrix, choices)]),
        shares=MemoryShares(1 << 30),
        seed=0,
    )


def test_products_on_a_bert_are_symmetric_and_match_differences(task):
    """On the tiny BERT with default attention: uᵀHv = vᵀHu, and H v is the slope of the gradient."""
    parameter = task.model.get_parameter(f"{task.profile.matrices[0].module}.weight")
    operator = HessianOperator(LabelledLoss(task.model, task.head, task.targets), [parameter], task.batches)
    u, v = np.random.default_rng(0).standard_normal((2, operator.shape[0]))
    product = torch.from_numpy(operator @ v)
    assert u @ product.numpy() == pytest.approx(v @ (operator @ u), rel=1e-3)

    def gradient():
        losses = [
            nn.functional.cross_entropy(
                task.model(**b.inputs).logits, task.targets.rows[list(b.indices)], reduction="sum"
            )
            for b in task.batches
        ]
        return torch.autograd.grad(sum(losses) / 40, parameter)[0].double().flatten()

    step = 2e-3 * torch.from_numpy(v).float().view_as(parameter)
    original, gradients = parameter.detach().clone(), []
    for sign in (1, -1, 0):  # back to the very weights at last: other tests use this model too
        with torch.no_grad():
            parameter.copy_(original + sign * step)
        gradients.append(gradient())
    after, before, _ = gradients
    slope = ((after - before) / 4e-3).numpy()
    assert np.linalg.norm(slope - product.numpy()) < 0.02 * np.linalg.norm(slope)


def test_omega_is_mean_plus_spread_times_the_squared_error(task):
    """Ω = |mean λ| + std λ over ten slices, one per encoder layer; a score is Ω · ‖ΔW‖²."""
    found = dict(qbert.score(task, range(len(task.profile.matrices))))
    layers = task.block_sensitivity
    assert [layer.block for layer in layers] == [0, 1]
    for layer in layers:
        assert len(layer.eigenvalues) == 10
        mean = sum(layer.eigenvalues) / 10
        spread = (sum((v - mean) ** 2 for v in layer.eigenvalues) / 10) ** 0.5
        assert layer.omega == pytest.approx(abs(mean) + spread)
    for index, matrix in enumerate(task.profile.matrices):
        squared = task.squared_errors(matrix)
        torch.testing.assert_close(found[index].value, layers[matrix.block].omega * squared)
        assert (found[index].std_error >= 0).all()


def test_the_error_of_omega_is_its_spread():
    """Over 400 draws of ten eigenvalues, Ω spreads by its mean jackknife error within 20 %."""
    generator = np.random.default_rng(0)
    rows = generator.normal(3.0, 1.0, (400, 10))
    assert np.std([omega(row) for row in rows]) == pytest.approx(np.mean([omega_error(row) for row in rows]), rel=0.2)


@pytest.mark.parametrize("metric", ["qbert", "qbert-matrix", "top-eigenvalue"])
def test_negative_eigenvalues_are_kept_priced_by_size_and_said(task, metric, monkeypatch):
    """A loss that curves downward everywhere: scores are positive, the table keeps the sign, a warning names where."""
    task = dataclasses.replace(task, curvature=[], block_sensitivity=[], warnings=[], jobs=Jobs(None, ""))
    monkeypatch.setattr(
        hessian_operators, "top_eigenpair", lambda operator, **_: EigenPair(-2.0, np.ones(operator.shape[0]))
    )
    monkeypatch.setattr(
        HessianOperator, "quadratic_forms", lambda self, vector: -2 - 0.01 * np.arange(len(self.batch_rows))
    )
    found = dict(plugins.load("metrics", metric).score(task, [0]))
    assert (found[0].value > 0).all()
    kept = [v for row in (*task.curvature, *task.block_sensitivity) for v in row.eigenvalues or (row.value,)]
    assert set(kept) == {-2.0}
    [warning] = task.warnings
    assert warning.startswith("negative ") and "has not converged" in warning
    assert ("at 2 of 2 layers (layer 1, layer 2)" if metric == "qbert" else "at 12 of 12 matrices") in warning


@pytest.mark.parametrize("metric", ["qbert", "qbert-matrix", "top-eigenvalue"])
def test_what_does_not_settle_or_fit_is_said(task, metric, monkeypatch):
    """No convergence and too little memory for the vectors: one line that names the part and the way out."""

    def never(*_args, **_options):
        raise ArpackNoConvergence("none", np.empty(0), np.empty(0))

    monkeypatch.setattr(hessian_operators, "top_eigenpair", never)
    score = plugins.load("metrics", metric).score
    task = dataclasses.replace(task, jobs=Jobs(None, ""))
    with pytest.raises(UsageError, match=r"its top eigenvalue did not converge within \d+ Hessian products"):
        list(score(task, [0]))
    monkeypatch.setattr(MemoryShares, "factors", property(lambda _: 1000))
    with pytest.raises(UsageError, match=r"8 vectors of its size alone needs"):
        list(score(task, [0]))


def test_slices_hold_every_sample_once(task):
    """The ten slices are disjoint, together all samples, and padding changes no logit."""
    slices = text_slices(task, "qbert")
    assert sorted(i for batch in slices for i in batch.indices) == list(range(40))
    whole = {i: row for b in task.batches for i, row in zip(b.indices, task.model(**b.inputs).logits, strict=True)}
    for batch in slices:
        for index, row in zip(batch.indices, task.model(**batch.inputs).logits, strict=True):
            torch.testing.assert_close(row, whole[index], atol=1e-5, rtol=0)


def test_fewer_samples_than_slices_are_refused(task, tiny, sentences):
    """Nine sentences cannot be cut into ten slices; the user is told so."""
    few = sentences.take(range(9))
    batches = tokenize(tiny.tokenizer, few.texts, batch_size=16)
    task = dataclasses.replace(task, batches=batches)
    with pytest.raises(UsageError, match=r"9 samples cannot be split into 10 slices"):
        list(qbert.score(task, [0]))


def test_qbert_needs_labels(tiny, sentences):
    """Its Hessian is that of the training loss; without labels the user is sent to the metric that needs none."""
    from qbert_opt.data.texts import LabeledTexts
    from qbert_opt.quantization.calibration import CalibrationPlan
    from qbert_opt.scoring.sensitivity import measure_sensitivity

    bare = LabeledTexts("bare.tsv", sentences.texts, None)
    with pytest.raises(UsageError, match=r"`metric` qbert: needs labels, and bare.tsv has none. Use directional"):
        measure_sensitivity(tiny, bare, grid((2,), ("rows:1",), "rtn"), metric="qbert", plan=CalibrationPlan(9, 20, 0))


def test_graphs_built_anew_give_the_same_products(network):
    """What is kept is a question of memory, not of the answer."""
    model, _, labels, batches = network
    parameters = list(model.parameters())
    vector = np.random.default_rng(0).standard_normal(sum(p.numel() for p in parameters))
    kept, again = (
        HessianOperator(loss_of(model, labels), parameters, batches, keep_graphs=keep) for keep in (True, False)
    )
    np.testing.assert_array_equal(kept @ vector, again @ vector)
    np.testing.assert_allclose(
        np.average(again.quadratic_forms(vector), weights=again.batch_rows), vector @ (kept @ vector), rtol=1e-12
    )


def test_a_loss_without_curvature_has_eigenvalue_zero(network):
    """Parameters that the loss does not depend on: zero products, eigenvalue zero, no complaint of ARPACK."""
    model, _, labels, batches = network
    operator = HessianOperator(loss_of(model, labels), [nn.Parameter(torch.ones(30, dtype=torch.float64))], batches)
    assert not (operator @ np.ones(30)).any()
    assert top_eigenvalue(operator, seed=0) == 0.0


@pytest.mark.parametrize("names", [["first.weight", "second.weight"], ["first.bias", "first.weight", "second.bias"]])
def test_one_draw_gives_the_traces_of_all_blocks(network, names):
    """Over 2,000 draws the mean is the dense trace of every block, within four standard errors."""
    model, _, labels, batches = network
    dense = dense_hessian(network, names).numpy()
    sizes = [model.get_parameter(name).numel() for name in names]
    draws = np.array([trace_draw(aslinearoperator(dense), sizes, (0, seed)) for seed in range(2000)])
    blocks = np.split(dense.diagonal(), np.cumsum(sizes)[:-1])
    error = draws.std(0, ddof=1) / 2000**0.5
    assert (np.abs(draws.mean(0) - [block.sum() for block in blocks]) < 4 * error).all()
    operator = HessianOperator(loss_of(model, labels), [model.get_parameter(name) for name in names], batches)
    np.testing.assert_allclose(trace_draw(operator, sizes, (0, 5)), draws[5], atol=1e-10)
    diagonal = aslinearoperator(np.diag(np.arange(5.0)))  # ±1 squared is 1: exact in one draw
    np.testing.assert_allclose(trace_draw(diagonal, [2, 3], (0,)), [1.0, 9.0])


@pytest.mark.parametrize("buffer_bytes", [1, 10_000])
@pytest.mark.parametrize("module", ["first", "second"])
def test_gram_has_the_eigenvalue_and_trace_of_the_dense_gauss_newton_matrix(network, module, buffer_bytes):
    """From per-sample gradients in one or several parts: what the dense matrix 1/N Σ Jᵀ (diag p - p pᵀ) J has."""
    model, x, _, batches = network
    weight = model.get_parameter(f"{module}.weight").detach()

    def outputs(value):
        changed = {f"{module}.weight": value.view_as(weight)}
        return torch.func.functional_call(model, changed, kwargs={"x": x, "attention_mask": None}).logits

    jacobian = torch.func.jacrev(outputs)(weight.flatten())  # [N, C, P]
    p = outputs(weight).detach().softmax(-1)
    hessian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    dense = torch.einsum("ncp,ncd,ndq->pq", jacobian, hessian, jacobian) / len(x)
    samples = factor_pass(model, batches, [module], head=HEAD)[module]
    for parts in ([samples], [samples[:4], samples[4:5], samples[5:]]):
        gram = gauss_newton.gram_matrix([lambda part=part: part for part in parts], buffer_bytes)
        assert gram.shape == (22, 22)
        expected = torch.linalg.eigvalsh(dense)[-1].item()
        assert gauss_newton.top_eigenvalue(gram, 11).value == pytest.approx(expected, rel=1e-9)
        squared = torch.cat([gauss_newton.squared_norms(part) for part in parts])
        torch.testing.assert_close(squared, gram.diagonal().reshape(11, 2).sum(1))
        assert gauss_newton.trace(squared).value == pytest.approx(dense.trace().item(), rel=1e-9)


def test_standard_errors_of_eigenvalue_and_trace_are_their_spread():
    """Over 200 data sets, the spread of both figures is their mean standard error within 20 %."""
    generator = torch.Generator().manual_seed(0)
    eigenvalues, traces = [], []
    for _ in range(200):
        strength = torch.rand(60, 1, 1, generator=generator)
        samples = [
            SampleFactors(n, a, g * s)
            for n, a, g, s in zip(
                range(60),
                torch.randn(60, 1, 3, generator=generator) + torch.tensor([2.0, 0, 0]),
                torch.randn(60, 1, 1, 2, generator=generator) + torch.tensor([1.0, 0]), strength, strict=True,
            )
        ]  # fmt: skip
        eigenvalues.append(gauss_newton.top_eigenvalue(gauss_newton.gram_matrix([lambda s=samples: s], 1 << 20), 60))
        traces.append(gauss_newton.trace(gauss_newton.squared_norms(samples)))
    for found in (eigenvalues, traces):
        spread = np.std([f.value for f in found])
        assert spread == pytest.approx(np.mean([f.std_error for f in found]), rel=0.2)


@pytest.mark.parametrize("spectrum", [(1.0, 0.5), (1.0, 0.9), (1.0, 0.95), (1.0, -0.9), (-1.0, 0.97)])
def test_a_second_eigenvalue_that_hides_at_first_does_not_mislead(spectrum):
    """Over 40 starts the top one of 3000 comes within the tolerance, its sign kept, whatever stands beside it."""
    values = np.concatenate([spectrum, np.random.default_rng(0).uniform(-0.05, 0.05, 2998)])
    operator = aslinearoperator(scipy.sparse.diags(values))
    found = [top_eigenvalue(operator, seed=seed) for seed in range(40)]
    np.testing.assert_allclose(found, spectrum[0], rtol=1e-2)


def test_the_smallest_operators_have_their_eigenvalue():
    """One by one, and two by two."""
    assert top_eigenvalue(aslinearoperator(np.array([[-3.0]])), seed=0) == pytest.approx(-3)
    assert top_eigenvalue(aslinearoperator(np.diag([1.0, -2.0])), seed=0) == pytest.approx(-2)
