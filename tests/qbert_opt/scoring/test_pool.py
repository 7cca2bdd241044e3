"""Scoring texts drawn from a pool: the sampler's laws, unbiased weighted scores, and what is refused."""

import copy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import warm_process
from families import tiny_model, tokenizer
from hypothesis import given
from hypothesis import strategies as st

from qbert_opt.data.texts import LabeledTexts
from qbert_opt.errors import UsageError
from qbert_opt.models.loading import LoadedModel, weights_sha256
from qbert_opt.models.tiers import split_table
from qbert_opt.quantization.calibration import CalibrationPlan
from qbert_opt.scoring.folds import assigned_folds
from qbert_opt.scoring.pool import Drawn, draw, inclusion_probabilities, systematic
from qbert_opt.scoring.sensitivity import measure_sensitivity
from qbert_opt.scoring.task import Estimate
from qbert_opt.spec.activations import activation_grid
from qbert_opt.spec.grids import grid
from qbert_opt.spec.scores import read_scores
from qbert_opt.spec.tables import table_grid

CHOICES = grid((2, 4), ("rows:1",), "rtn")
TABLES = table_grid((2, 4), ("rows:each",))
TRACES = st.lists(st.one_of(st.just(0.0), st.floats(1e-9, 1e3)), min_size=1, max_size=40).map(np.array)


@given(TRACES, st.data())
def test_probabilities_are_those_of_a_draw(traces, data):
    """They sum to the number of texts, none exceeds 1, and a larger trace is never less likely."""
    count = data.draw(st.integers(0, len(traces)))
    found = inclusion_probabilities(traces, count)
    assert found.sum() == pytest.approx(count, abs=1e-9)
    assert (found >= 0).all() and (found <= 1).all()
    assert (np.diff(found[traces.argsort(kind="stable")]) >= -1e-12).all()
    if count:
        assert found.min() >= min(1, 0.2 * count / len(traces)) - 1e-12  # no weight is over 5 times the even
    if count == len(traces):
        assert (found == 1).all()


@given(TRACES, st.data(), st.floats(0, 1, exclude_max=True))
def test_a_systematic_draw_has_its_size_and_every_certain_text(traces, data, start):
    likely = inclusion_probabilities(traces, data.draw(st.integers(0, len(traces))))
    drawn = systematic(likely, start)
    assert len(drawn) == round(likely.sum())
    assert len(set(drawn.tolist())) == len(drawn)
    assert set(np.flatnonzero(likely == 1)) <= set(drawn.tolist())


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=8).map(np.array), st.data())
def test_every_text_is_drawn_with_its_probability(traces, data):
    """Over all starts, exactly: the draw changes only where a cumulated probability ends."""
    likely = inclusion_probabilities(traces, data.draw(st.integers(1, len(traces))))
    cuts = np.unique(np.concatenate([[0.0, 1.0], likely.cumsum() % 1.0]))
    found = np.zeros(len(likely))
    for low, high in pairwise(cuts):
        found[systematic(likely, (low + high) / 2)] += high - low
    np.testing.assert_allclose(found, likely, atol=1e-9)


@given(st.integers(16, 60), st.data())
def test_drawn_texts_keep_to_the_folds_of_the_pool(size, data):
    """Text i is of fold i mod 8, which is how scores are cut into folds; all of a pool come in its own order."""
    count = data.draw(st.integers(16, size))
    traces = np.random.default_rng(size).gamma(0.3, size=size)
    places, probabilities = draw(traces, count, 5)
    assert len(set(places)) == count
    assert [place % 8 for place in places] == [text % 8 for text in range(count)] == assigned_folds(range(count))
    assert (places, probabilities) == draw(traces, count, 5)
    if count == size:
        assert places == list(range(size)) and set(probabilities) == {1.0}
        assert set(Drawn(tuple(places), tuple(probabilities), size).weights) == {1.0}


def test_a_whole_pool_has_the_usual_standard_error():
    losses = torch.rand(30, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn = Drawn(tuple(range(30)), (1.0,) * 30, 30)
    usual, found = Estimate.over(losses), Estimate.over(losses, drawn=drawn)
    torch.testing.assert_close(found.std_error, usual.std_error)
    assert found.effective_samples == pytest.approx(usual.effective_samples, rel=0.05)


def test_the_standard_error_is_that_of_draw_and_pool():
    """Over draws from pools that are themselves drawn, the stated error is the spread of the estimate."""
    means, stated = [], []
    for seed in range(400):
        generator = np.random.default_rng(seed)
        traces = generator.gamma(0.15, size=400)
        losses = traces * generator.gamma(2.0, size=400)
        places, probabilities = draw(traces, 64, seed)
        drawn = Drawn(tuple(places), tuple(probabilities), 400)
        weighted = torch.tensor(losses[places] * np.array(drawn.weights))[:, None]
        estimate = Estimate.over(weighted, drawn=drawn)
        means.append(float(estimate.value[0]))
        stated.append(float(estimate.std_error[0]))
    assert np.mean(means) == pytest.approx(0.3, abs=3 * np.std(means) / 20)
    assert 0.85 < np.sqrt(np.mean(np.square(stated))) / np.std(means) < 1.25
    evenly = np.sqrt(0.15 * 6 + 0.15**2 * 4 - 0.3**2) / 8  # E[l²] of 64 texts drawn evenly
    assert np.std(means) < 0.6 * evenly


def tagger():
    """A tagger of one layer that is sure of some texts, and texts for it."""
    model = tiny_model("bert", "tags", num_hidden_layers=1)
    with torch.no_grad():
        model.classifier.weight *= 60
    texts = [(" ".join(f"w{(7 * i + j * j) % 59}" for j in range(2 + i % 5)),) for i in range(90)]
    return LoadedModel("tiny", model, tokenizer(), ""), LabeledTexts("texts", tuple(dict.fromkeys(texts)), None, "")


def words(table):
    """Scores of the table of words under each choice."""
    return table.tables.value[0]


def scores(loaded, texts, plan, **given):
    return measure_sensitivity(loaded, texts, CHOICES, plan=plan, **given)


def in_tiers(loaded):
    """A model with its words in tiers, the first of which no text reads."""
    model = copy.deepcopy(loaded.model)
    model.config.table_tiers = [2, 52, 10]
    split_table(model, "tiny")
    return replace(loaded, model=model, sha256=weights_sha256(model))


@pytest.mark.parametrize("tiered", [False, True])
def test_a_drawn_whole_pool_scores_as_the_texts_themselves(tiered, tiny, sentences):
    """Matrices and tables: losses, folds, errors, and what is known of rows that no text reads."""
    plan, loaded = CalibrationPlan(8, 40, 3), in_tiers(tiny) if tiered else tiny
    usual, found = (scores(loaded, sentences, p, table_choices=TABLES) for p in (plan, replace(plan, num_pool=40)))
    assert found.tables.unseen_reads == usual.tables.unseen_reads
    assert found.tables.unseen_rows == usual.tables.unseen_rows
    assert found.tables.unseen_factor == pytest.approx(usual.tables.unseen_factor, rel=1e-6)
    assert tiered == (1.0 in found.tables.unseen_rows)
    np.testing.assert_allclose(found.tables.value, usual.tables.value, rtol=1e-6)
    np.testing.assert_allclose(found.tables.fold_value, usual.tables.fold_value, rtol=1e-6)
    np.testing.assert_allclose(found.tables.std_error, usual.tables.std_error, rtol=1e-3)
    np.testing.assert_allclose(found.value, usual.value, rtol=1e-6)
    np.testing.assert_allclose(found.fold_value, usual.fold_value, rtol=1e-6)
    np.testing.assert_allclose(found.std_error, usual.std_error, rtol=1e-3)
    assert (found.provenance.num_pool, usual.provenance.num_pool) == (40, 0)


@pytest.mark.parametrize("kind", ["tags", "classes"])
def test_scores_of_drawn_texts_are_unbiased(kind, tiny, sentences, monkeypatch):
    """Over draws from one pool, the mean of every score is that of the whole pool: matrices, inputs and tables."""
    loaded, texts = tagger() if kind == "tags" else (tiny, sentences)
    monkeypatch.setattr("qbert_opt.curvature.sharing.CARRYING_SHARE", 1.0)  # all columns, so that only texts are drawn
    monkeypatch.setattr("qbert_opt.curvature.sharing.SIGN_DRAWS", 64)
    monkeypatch.setattr("qbert_opt.curvature.sharing.MOST_DRAWS", 64)
    monkeypatch.setattr("qbert_opt.curvature.sharing.DRAWS_OF_DRAWN", 64)
    monkeypatch.setattr("qbert_opt.scoring.sensitivity.common_scale", lambda rows: None)
    whole = CalibrationPlan(8, 40, 3)
    given = {"activation_choices": activation_grid((8,)), "table_choices": TABLES}
    truth = scores(loaded, texts, whole, **given)
    drawn = []
    for seed in range(24):
        monkeypatch.setattr("qbert_opt.scoring.pool.draw", lambda t, count, _, seed=seed: draw(t, count, seed))
        plan = replace(whole, num_scored=16, num_pool=40)
        drawn.append(scores(loaded, texts, plan, **given))
    for part in (lambda t: np.array(t.value), lambda t: np.array(t.activations.value), lambda t: np.array(words(t))):
        found = np.array([part(t).sum() for t in drawn])
        error = found.std(ddof=1) / len(found) ** 0.5
        assert abs(found.mean() - part(truth).sum()) < 3.5 * error + 0.02 * found.mean()
        assert error < 0.1 * found.mean()
    assert drawn[0].provenance.mean_tokens == truth.provenance.mean_tokens  # of the pool
    assert drawn[0].provenance.mean_confidence == pytest.approx(truth.provenance.mean_confidence)


def test_a_run_of_drawn_texts_resumes_and_is_shared(cli, tmp_path, tiny_folder, data_file):
    """Two processes, and a run after an interruption, give the same table."""
    command = [
        "sensitivity", "--model", tiny_folder, "--data", data_file, "--method", "rtn", "--bits", "2", "--table-bits",
        "2,4", "--calibration-samples", 9, "--scoring-samples", 16, "--scoring-pool", 30, "-q", "-o",
    ]  # fmt: skip
    warm_process.in_two(tmp_path, [*command, tmp_path / "two.json"])
    done = cli(*command, tmp_path / "one.json")
    assert done.code == 0, done.err
    one, two = (read_scores(tmp_path / f"{name}.json") for name in ("one", "two"))
    np.testing.assert_allclose(np.array(one.value, float), np.array(two.value, float), rtol=1e-9)
    assert one.tables.value == two.tables.value
    assert one.provenance.num_pool == 30


@pytest.mark.parametrize(
    ("plan", "given", "said"),
    [
        (CalibrationPlan(8, 20, 0, 19), {}, "smaller than"),
        (CalibrationPlan(8, 15, 0, 30), {}, "at least 16"),
        (CalibrationPlan(8, 16, 0, 30), {"metric": "fisher"}, "cannot weight texts"),
        (CalibrationPlan(8, 16, 0, 30), {"with_curvature": True}, "`curvature`"),
    ],
)
def test_what_cannot_be_drawn_is_refused(plan, given, said, tiny, sentences):
    with pytest.raises(UsageError, match=said):
        scores(tiny, sentences, plan, **given)


@pytest.mark.parametrize(("kind", "said"), [("embeddings", "no text is more uncertain"), ("spans", "windows")])
def test_models_without_uncertain_texts_are_refused(kind, said, sentences):
    loaded = LoadedModel("tiny", tiny_model("bert", kind), tokenizer(), "")
    with pytest.raises(UsageError, match=said):
        scores(loaded, sentences, CalibrationPlan(8, 16, 0, 30))
