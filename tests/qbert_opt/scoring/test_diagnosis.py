"""Spectral density, eigenvectors and surface against dense matrices; the verb from model to plot."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from families import tiny_model, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import aslinearoperator

from qbert_opt.curvature.hessian import top_eigenpairs
from qbert_opt.curvature.lanczos import least_vector, quadrature
from qbert_opt.data.texts import LabeledTexts
from qbert_opt.errors import InputFileError, UsageError
from qbert_opt.models.loading import LoadedModel
from qbert_opt.reports.plots.diagnosis import draw
from qbert_opt.scoring import diagnosing, landscape
from qbert_opt.scoring.diagnosing import DiagnosisPlan, diagnose
from qbert_opt.scoring.diagnosis import Spectrum, read_diagnosis, write_diagnosis

QUICK = DiagnosisPlan(num_samples=20, vectors=3, steps=8, points=3, layer=2, seed=0)
LIMIT = 1 << 30


def symmetric(values, seed):
    """A dense matrix with these eigenvalues, and its eigenvectors."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values), len(values))))
    return basis @ np.diag(values) @ basis.T, basis


def spectrum_of(operator, vectors, steps):
    quadratures = [quadrature(operator, steps, seed) for seed in range(vectors)]
    return Spectrum(
        nodes=tuple(tuple(q.nodes.tolist()) for q in quadratures),
        weights=tuple(tuple(q.weights.tolist()) for q in quadratures),
    )


def unit_vector(size, seed):
    vector = np.random.default_rng(seed).standard_normal(size)
    return vector / np.linalg.norm(vector)


@settings(max_examples=25)
@given(seed=st.integers(0, 999), steps=st.integers(1, 6))
def test_the_quadrature_is_exact_for_polynomials(seed, steps):
    """Sums of weight times θ^k are vᵀ H^k v up to degree 2 m - 1; nodes lie within the spectrum; weights sum to 1."""
    dense, _ = symmetric(np.random.default_rng(seed).uniform(-2, 2, 12), seed)
    spectrum = quadrature(aslinearoperator(dense), steps, seed)
    vector = unit_vector(12, seed)
    for power in range(2 * steps):
        expected = vector @ np.linalg.matrix_power(dense, power) @ vector
        assert spectrum.nodes**power @ spectrum.weights == pytest.approx(expected, abs=1e-8)
    values = np.linalg.eigvalsh(dense)
    assert values[0] - 1e-9 <= spectrum.nodes[0] and spectrum.nodes[-1] <= values[-1] + 1e-9


def test_copies_of_converged_eigenvalues_share_one_weight():
    """With far too many steps, isolated eigenvalues appear several times, and their weights add up."""
    values = np.concatenate([[-30.0, 100.0, 55.0], np.linspace(-1, 1, 197)])
    dense, basis = symmetric(values, 1)
    spectrum = quadrature(aslinearoperator(dense), 120, 3)
    vector = unit_vector(200, 3)
    copies = [np.abs(spectrum.nodes - value) < 1e-6 for value in values[:3]]
    assert max(int(c.sum()) for c in copies) > 1
    for column, copy_of in enumerate(copies):
        assert spectrum.weights[copy_of].sum() == pytest.approx((basis[:, column] @ vector) ** 2, rel=1e-6)


def test_a_run_ends_with_its_krylov_space():
    """The identity and the zero matrix have one eigenvalue each; nothing is divided by zero."""
    for scale in (1.0, 0.0):
        spectrum = quadrature(aslinearoperator(scale * np.eye(9)), 5, 0)
        np.testing.assert_allclose((spectrum.nodes, spectrum.weights), [[scale], [1.0]])


def test_density_trace_and_negative_part_are_those_of_the_dense_matrix():
    """Over 40 random vectors: within four standard errors of the dense eigenvalues' values."""
    values = np.concatenate([np.random.default_rng(0).normal(0, 0.3, 60), [4.0, -2.0]])
    dense, _ = symmetric(values, 5)
    spectrum = spectrum_of(aslinearoperator(dense), 40, 20)
    at = np.linspace(-3, 5, 33)
    density, error = spectrum.density(at, 0.4)
    expected = np.exp(-0.5 * ((at[:, None] - values) / 0.4) ** 2).mean(1) / (0.4 * (2 * np.pi) ** 0.5)
    assert (np.abs(density - expected) < 4 * error + 1e-4).all()
    for power, negative, true in ((1, False, values.mean()), (2, True, (np.minimum(values, 0) ** 2).mean())):
        mean, spread = spectrum.moment(power, only_negative=negative)
        assert spread > 0 and abs(mean - true) < 4 * spread
    assert spectrum.least == pytest.approx(-2.0, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_top_two_eigenpairs(seed):
    """Largest magnitude first, signs kept, vectors those of the dense matrix."""
    values = np.concatenate([[-9.0, 7.0], np.random.default_rng(seed).uniform(-4, 4, 40)])
    dense, basis = symmetric(values, seed)
    first, second = top_eigenpairs(aslinearoperator(dense), 2, seed=seed, tolerance=1e-8)
    assert (first.value, second.value) == (pytest.approx(-9.0), pytest.approx(7.0))
    assert abs(first.vector @ basis[:, 0]) == pytest.approx(1) and abs(second.vector @ basis[:, 1]) == pytest.approx(1)


@pytest.fixture(scope="module")
def exact(tiny):
    """The tiny model in float64, so that small differences are visible."""
    return dataclasses.replace(tiny, model=copy.deepcopy(tiny.model).double())


def test_the_surface_has_the_eigenvalues_as_curvature_and_the_gradient_as_slope(exact, sentences, monkeypatch):
    """By first and second differences of nearby losses; and the weights are restored bit for bit."""
    monkeypatch.setattr(landscape, "RISE_NATS", 1e-5)
    monkeypatch.setattr(
        diagnosing, "top_eigenpairs", lambda *args, **options: top_eigenpairs(*args, **options, tolerance=1e-6)
    )
    before = {name: p.detach().clone() for name, p in exact.model.named_parameters()}
    diagnosis = diagnose(exact, sentences, QUICK, memory_limit_bytes=LIMIT)
    assert all(torch.equal(p, before[name]) for name, p in exact.model.named_parameters())
    loss = np.array(diagnosis.surface.loss)
    assert diagnosis.loss == loss[1, 1] and diagnosis.surface.first[1] == diagnosis.surface.second[1] == 0
    for line, steps, value, slope in (
        (loss[:, 1], diagnosis.surface.first, diagnosis.eigenvalues[0], diagnosis.surface.slopes[0]),
        (loss[1], diagnosis.surface.second, diagnosis.eigenvalues[1], diagnosis.surface.slopes[1]),
    ):
        assert (line[2] - 2 * line[1] + line[0]) / steps[2] ** 2 == pytest.approx(value, rel=1e-2)
        assert (line[2] - line[0]) / (2 * steps[2]) == pytest.approx(slope, rel=1e-2, abs=1e-7)
        assert slope <= 0
    assert abs(diagnosis.eigenvalues[0]) >= abs(diagnosis.eigenvalues[1])
    assert diagnosis.spectrum.least <= max(diagnosis.eigenvalues)
    assert np.hypot(*diagnosis.surface.slopes) <= diagnosis.gradient_norm


def test_a_decreasing_loss_along_negative_curvature_is_a_warning(tiny, sentences):
    """A network of random weights has not converged and gets a warning; if the loss hardly decreases there is none."""
    diagnosis = diagnose(tiny, sentences, QUICK, memory_limit_bytes=LIMIT)
    assert (
        diagnosis.descent.curvature == pytest.approx(diagnosis.least_eigenvalue, rel=1e-3)
        and diagnosis.descent.curvature < 0
    )
    assert diagnosis.descent.loss[8] == pytest.approx(diagnosis.loss, rel=1e-6) and diagnosis.descent.steps[8] == 0
    assert diagnosis.descent.fall == diagnosis.descent.loss[8] - min(diagnosis.descent.loss) >= 0
    [warning] = diagnosis.warnings
    assert "has not converged" in warning and f"{min(diagnosis.descent.loss):.4g}" in warning
    little = diagnosis.descent.model_copy(update={"curvature": -0.1, "loss": (*[0.031] * 8, 0.03, *[0.029] * 8)})
    assert not list(diagnosing._warnings(1.0, little)) and not list(diagnosing._warnings(1.0, None))
    assert list(diagnosing._warnings(0.4, little)) and list(diagnosing._warnings(-0.4, little))
    falls = little.model_copy(update={"loss": (*[0.3] * 8, 0.2, *[0.1] * 8)})
    assert "decreases from 0.2 to 0.1." in next(diagnosing._warnings(1.0, falls))


@pytest.mark.parametrize(("values", "least"), [((-9.0, 8.0), -9.0), ((9.0, -3.0), -3.0), ((9.0, 8.0), -0.5)])
def test_the_least_curvature_is_the_least_of_all_that_was_found(values, least):
    """A top eigenvector may lie below all that a few steps from random vectors have seen, and then counts."""
    dense, _ = symmetric(np.concatenate([values, np.linspace(-0.5, 0.5, 98)]), 3)
    operator = aslinearoperator(dense)
    plan = dataclasses.replace(QUICK, vectors=2, steps=40 if least == -0.5 else 2)
    spectrum = spectrum_of(operator, 2, plan.steps)
    pairs = top_eigenpairs(operator, 2, seed=0, tolerance=1e-8)
    if least != -0.5:
        assert spectrum.least > least + 0.5
    nodes = [quadrature(operator, plan.steps, plan.seed + 1 + index).nodes for index in range(2)]
    spectrum = Spectrum(nodes=nodes, weights=[[1 / len(n)] * len(n) for n in nodes])
    down = diagnosing._downward(operator, plan, spectrum, pairs)
    assert down.value == pytest.approx(least, rel=1e-2)
    assert down.vector @ dense @ down.vector == pytest.approx(down.value)
    positive = aslinearoperator(dense + 20 * np.eye(100))
    nodes = [quadrature(positive, 4, seed).nodes for seed in (1, 2)]
    spectrum = Spectrum(nodes=nodes, weights=[[0.25] * 4] * 2)
    assert diagnosing._downward(positive, plan, spectrum, top_eigenpairs(positive, 2, seed=0)) is None


def test_the_least_vector_has_the_least_node_as_curvature():
    """Its Rayleigh quotient is the smallest node, also with repeated nodes; with enough steps it is the eigenvector."""
    values = np.concatenate([[-7.0, 100.0, 55.0], np.linspace(-1, 1, 97)])
    dense, basis = symmetric(values, 2)
    operator = aslinearoperator(dense)
    for steps in (3, 12, 80):
        vector = least_vector(operator, steps, 4)
        assert vector @ dense @ vector == pytest.approx(quadrature(operator, steps, 4).nodes[0], rel=1e-6)
    assert abs(vector @ basis[:, 0]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("kind", ["tags", "spans"])
def test_tags_and_spans_have_a_hessian_too(kind):
    """Tags and answer spans: eigenvalues of the loss over labelled rows; rows without a label do not count."""
    words = [" ".join(f"w{(7 * i + j) % 50}" for j in range(5)) for i in range(24)]
    if kind == "tags":
        data = LabeledTexts("tags", tuple((t,) for t in words), ("O B-x I-x O B-y",) * 24)
    else:
        answers = [json.dumps([t.split()[i % 5]]) if i else "[]" for i, t in enumerate(words)]
        data = LabeledTexts("spans", tuple(("w1 w2", t) for t in words), tuple(answers))
    loaded = LoadedModel(kind, tiny_model("bert", kind), tokenizer(), "0" * 64)
    diagnosis = diagnose(loaded, data, dataclasses.replace(QUICK, num_samples=24, steps=4), memory_limit_bytes=LIMIT)
    assert diagnosis.loss_unit.endswith({"tags": "per word", "spans": "per start or end"}[kind])
    assert diagnosis.loss == pytest.approx(np.log(5), rel=0.5)
    assert abs(diagnosis.eigenvalues[0]) > 0
    bare = dataclasses.replace(data, labels=None)
    with pytest.raises(UsageError, match=r"diagnose: needs labels, and .* has none"):
        diagnose(loaded, bare, dataclasses.replace(QUICK, num_samples=24), memory_limit_bytes=LIMIT)


def test_embeddings_have_no_training_loss(sentences):
    """A model without a head is rejected in one line."""
    loaded = LoadedModel("bare", tiny_model("bert", "embeddings"), tokenizer(), "0" * 64)
    with pytest.raises(UsageError, match=r"not defined for the embeddings of bare"):
        diagnose(loaded, sentences, QUICK, memory_limit_bytes=LIMIT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": 4}, r"`points` 4: must be odd"),
        ({"layer": 3}, r"`layer` 3: .* has layers 1 to 2"),
        ({"layer": 0}, r"`layer` 0: .* has layers 1 to 2"),
        ({"num_samples": 500}, r"500"),
    ],
)
def test_illegal_diagnoses(tiny, sentences, change, message):
    """One line that tells what is legal."""
    with pytest.raises((UsageError, InputFileError), match=message):
        diagnose(tiny, sentences, dataclasses.replace(QUICK, **change), memory_limit_bytes=LIMIT)


def test_too_little_memory_is_an_error_with_a_remedy(tiny, sentences):
    """The vectors of all layers need more than a megabyte; the message suggests --layer."""
    with pytest.raises(UsageError, match=r"`memory_limit_bytes` 1MiB: .*one `?(--)?layer.* Give at least \d+MiB"):
        diagnose(tiny, sentences, dataclasses.replace(QUICK, layer=None), memory_limit_bytes=1 << 20)


def test_the_verb_resumes_after_an_interruption_with_the_same_bits(cli, tmp_path, tiny_folder, data_file, monkeypatch):
    """Work that was finished before Ctrl-C is not repeated, the file is identical, and no other file is left."""
    options = ("--model", tiny_folder, "--data", data_file, "--samples", 20, "--vectors", 3, "--steps", 4,
               "--points", 3, "--layer", 1, "-q")  # fmt: skip
    whole = cli("diagnose", *options, "-o", tmp_path / "whole.json", "--plot", tmp_path / "d.svg")
    assert whole.code == 0, whole.err
    assert "top eigenvalues" in whole.out and "within --memory-limit 4,096 MiB" in whole.out
    assert "warning: the model has not converged" in whole.err
    calls = []

    def once(operator, steps, seed):
        calls.append(seed)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return quadrature(operator, steps, seed)

    monkeypatch.setattr(diagnosing, "quadrature", once)
    assert cli("diagnose", *options, "-o", tmp_path / "again.json").code == 130
    assert not (tmp_path / "again.json").exists()
    assert cli("diagnose", *options, "-o", tmp_path / "again.json").code == 0
    assert calls == [1, 2, 2, 3]
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.json", "d.svg", "whole.json"]


@pytest.fixture(scope="module")
def diagnosis(tiny, sentences):
    return diagnose(tiny, sentences, QUICK, memory_limit_bytes=LIMIT)


def test_the_document_round_trips_and_errors_are_rejected(diagnosis, tmp_path):
    """Exact round trip; NaN, another shape and another schema are rejected by name."""
    write_diagnosis(diagnosis, tmp_path / "d.json")
    assert read_diagnosis(tmp_path / "d.json") == diagnosis
    document = json.loads((tmp_path / "d.json").read_text())
    for path, wrong, message in (
        (("loss",), float("nan"), "loss"),
        (("surface", "loss"), [[1.0]], r"loss is not \[first, second\]"),
        (("spectrum", "nodes"), [[1.0]], "at least two vectors"),
        (("schema",), "qbert-opt/scores@1", "this version reads 'qbert-opt/diagnosis@1'"),
    ):
        changed = copy.deepcopy(document)
        place = changed
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = wrong
        (tmp_path / "wrong.json").write_text(json.dumps(changed))
        with pytest.raises(InputFileError, match=message):
            read_diagnosis(tmp_path / "wrong.json")


def test_the_plot_shows_spectrum_and_surface(diagnosis):
    """The density over the whole spectrum, logarithmic; the loss surface with the model marked; also a flat surface."""
    density, surface = draw(diagnosis).axes[:2]
    curve = density.lines[0]
    assert curve.get_xdata()[0] < diagnosis.spectrum.least and curve.get_xdata()[-1] > max(diagnosis.eigenvalues)
    assert density.get_yscale() == "log" and (curve.get_ydata() > 0).all()
    assert "negative" in density.get_title(loc="left") and not density.texts  # above the axes, where no curve is
    assert (surface.lines[0].get_xdata(), surface.lines[0].get_ydata()) == ([0.0], [0.0])
    assert f"{diagnosis.eigenvalues[0]:.3g}" in surface.get_xlabel()
    flat = diagnosis.model_copy(
        update={"surface": diagnosis.surface.model_copy(update={"loss": ((1.0,) * 3,) * 3}), "eigenvalues": (0.0, 0.0)}
    )
    assert len(draw(flat).axes) == 3
