"""Changed answers: predicted from margins, counted, and what counts prove."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binom, norm

from qbert_opt.errors import UsageError
from qbert_opt.evaluation.counts import ChangedAnswers, changed_answers, texts_needed, upper_drop, upper_share
from qbert_opt.evaluation.evaluate import kl_divergence
from qbert_opt.evaluation.flips import _chances, check_answers, flip_relation
from qbert_opt.evaluation.logit_noise import even_noise, margin_errors, probed_noise, smoothed
from qbert_opt.models.samples import Outputs, Targets


def outputs(values, kind="classes", texts=None):
    """Rows of answers, one per text unless `texts` says otherwise."""
    values = torch.as_tensor(values, dtype=torch.float32)
    samples = torch.arange(len(values)) if texts is None else torch.as_tensor(texts)
    return Outputs(kind, values, samples, len(set(samples.tolist())))


def confident(count=400, classes=2, seed=0):
    """Logits of a model that is sure of most texts."""
    return torch.randn(count, classes, generator=torch.Generator().manual_seed(seed)) * 3


def test_two_classes_have_a_closed_form():
    """The chance to flip is Φ(-margin / (σ √2)); both answers together are certain."""
    top = torch.tensor([[2.0, 0.0], [0.3, 0.1]], dtype=torch.float64)
    for deviation in (0.2, 0.7, 3.0):
        found = _chances(top, deviation, every=True)
        expected = norm.sf((top[:, 0] - top[:, 1]).numpy() / deviation / math.sqrt(2))
        np.testing.assert_allclose(found[:, 1].numpy(), expected, rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(found.sum(1).numpy(), 1, atol=1e-9)


def test_many_classes_agree_with_drawing_noise():
    """Five classes against a million draws."""
    logits = torch.tensor([[1.0, 0.6, 0.5, -1.0, 0.0]], dtype=torch.float64)
    ordered = logits.sort(descending=True).values
    noise = torch.randn(1_000_000, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.8
    share = torch.bincount((ordered + noise).argmax(1), minlength=5) / len(noise)
    np.testing.assert_allclose(_chances(ordered, 0.8, every=True)[0].numpy(), share.numpy(), atol=2e-3)


@pytest.mark.parametrize("classes", [2, 5])
def test_noise_of_known_size_is_predicted(classes):
    """Really noisy logits: their measured KL predicts the share of changed answers and the lost accuracy."""
    logits, generator = confident(500, classes), torch.Generator().manual_seed(2)
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    targets = Targets("classes", labels, torch.arange(len(labels)))
    relation = flip_relation(outputs(logits), targets)
    losses, flips, drops = [], [], []
    for _ in range(200):  # 100,000 noisy answers to the very texts of the relation
        noisy = logits + 0.3 * torch.randn(logits.shape, generator=generator)
        losses.append(float(kl_divergence(logits, noisy).mean()))
        changed = changed_answers(outputs(noisy), logits, targets)
        flips.append(changed.flips.value)
        drops.append((changed.lost - changed.won) / changed.num_texts)
    kl, error = np.mean(losses), 3 * np.std(flips) / len(flips) ** 0.5
    assert relation.flipped(kl) == pytest.approx(np.mean(flips), abs=error + 0.03 * np.mean(flips))
    assert relation.dropped(kl) == pytest.approx(np.mean(drops), abs=2 * error)


def test_a_text_flips_if_any_of_its_rows_does():
    """Tags: two rows of even odds flip a text with chance 1 - ¼; one changed row of a text counts once."""
    relation = flip_relation(outputs([[0.0, 0.0], [0.0, 0.0]], kind="tags", texts=[0, 0]))
    assert relation.flips[0, 30] == pytest.approx(0.75, abs=1e-6)
    reference = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    answers = outputs([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]], kind="tags", texts=[0, 0, 1])
    assert changed_answers(answers, reference) == ChangedAnswers(2, 1)


@given(kl=st.floats(1e-8, 0.5), factor=st.floats(1.1, 50))
@settings(max_examples=15)
def test_more_loss_flips_no_fewer(kl, factor):
    """Flips grow with the loss, and few texts do not make them vanish where the loss is small."""
    relation = flip_relation(outputs(confident(60)))
    assert 0 < relation.flipped(kl) <= relation.flipped(factor * kl) + 1e-9 <= 1 + 1e-9


def test_a_forecast_holds_what_a_measurement_finds():
    """Its interval covers the measured share for noise of the predicted size."""
    held, scored = 0, outputs(confident(256, seed=3))
    for seed in range(12):
        logits = confident(500, seed=100 + seed)
        relation = flip_relation(outputs(logits), noise=even_noise(scored))
        noisy = logits + 0.25 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed))
        kl = 0.25**2 * relation.noise_kl
        found = relation.forecast(kl, 0.1 * kl, seed=seed)
        held += found.low <= changed_answers(outputs(noisy), logits).flips.value <= found.high
    assert held >= 11


def test_margins_are_those_of_the_texts_that_are_predicted():
    """The scoring texts set the noise, the predicted texts the margins: none is near the boundary, or every one is."""
    scored = outputs([[3.0, 0.0]] * 50)
    sure, torn = (flip_relation(outputs([[gap, 0.0]] * 40), noise=even_noise(scored)) for gap in (9.0, 0.1))
    p = 1 / (1 + math.exp(-3))
    assert sure.noise_kl == torn.noise_kl == pytest.approx(p * (1 - p))
    kl = 0.5**2 * p * (1 - p)  # σ = 0.5
    assert sure.forecast(kl, 0.0).value < 1e-9
    assert torn.forecast(kl, 0.0).value == pytest.approx(norm.sf(0.1 / 0.5 / math.sqrt(2)), rel=0.01)


@pytest.mark.parametrize("classes", [2, 5])
def test_noise_that_depends_on_the_margin_is_predicted(classes):
    """Undecided rows are moved ten times as much as sure ones: noise of one size misses most flips, this does not."""
    logits, generator = 2 * confident(600, classes), torch.Generator().manual_seed(4)
    top = logits.topk(2, dim=-1).values
    margin = (top[:, 0] - top[:, 1]).numpy()
    true = np.where(margin < 3, 0.5, 0.05)

    def noisy():
        return logits + torch.from_numpy(true).float()[:, None] * torch.randn(logits.shape, generator=generator)

    draws = [noisy() for _ in range(40)]
    kl = np.mean([float(kl_divergence(logits, draw).mean()) for draw in draws])
    flips = np.mean([changed_answers(outputs(draw), logits).flips.value for draw in draws])
    squares = np.mean([margin_errors(logits, noisy()).square().numpy() / 2 for _ in range(4)], axis=0)
    noise = smoothed(margin, squares, kl)
    torn, sure = (np.mean(noise.at(margin[m])) for m in (margin < 2.5, margin > 3.5))
    assert torn / sure == pytest.approx(10, rel=0.1)
    found, even = (flip_relation(outputs(logits), noise=n) for n in (noise, even_noise(outputs(logits))))
    assert found.flipped(kl) == pytest.approx(flips, rel=0.1)
    assert found.flipped(kl / 4) == pytest.approx(flips / 2, rel=0.15)  # half the noise
    assert abs(even.flipped(kl) - flips) > 2 * abs(found.flipped(kl) - flips)


def test_the_error_of_a_margin_is_of_the_references_answers():
    """By hand: the two largest logits of the reference are columns 2 and 0, whatever the other model says."""
    reference = torch.tensor([[1.0, 0.0, 3.0]])
    assert margin_errors(reference, torch.tensor([[1.5, 9.0, 2.0]])).item() == pytest.approx((2 - 1.5) - (3 - 1))


def test_noise_on_the_weights_moves_answers(tiny, sentences):
    """The probe leaves the model as it was, repeats, and counts KL on the scoring texts alone."""
    before = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}
    scored = sentences.take(range(0, 40))
    first, again = (probed_noise(tiny, sentences, scored) for _ in range(2))
    whole = probed_noise(tiny, sentences, sentences)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny.model.state_dict().items())
    np.testing.assert_array_equal(first.deviations, again.deviations)
    assert first.kl == again.kl != whole.kl and (np.diff(first.margins) >= 0).all()
    assert np.mean(first.deviations**2) == pytest.approx(1, rel=0.5) and (first.deviations > 0).all()


def test_a_forecast_of_the_drop_counts_lost_and_won():
    """Right answers near the boundary are lost, wrong ones won back, both half the time: the drop's mean is zero."""
    logits = torch.tensor([[0.01, 0.0]] * 200)
    targets = Targets("classes", torch.tensor([0, 1] * 100), torch.arange(200))
    found = flip_relation(outputs(logits), targets).forecast(0.05, 0.0, drop=True)
    assert found.value == pytest.approx(0, abs=1e-6) and -0.12 < found.low < -0.05 and 0.05 < found.high < 0.12


def test_changed_answers_by_hand():
    """Two lost, one won, one changed from wrong to wrong."""
    reference = torch.tensor([[2.0, 0, 0], [2.0, 0, 0], [2.0, 0, 0], [2.0, 0, 0], [2.0, 0, 0]])
    answers = outputs([[0, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0]])
    targets = Targets("classes", torch.tensor([0, 0, 1, 2, 0]), torch.arange(5))
    found = changed_answers(answers, reference, targets)
    assert found == ChangedAnswers(5, 4, lost=2, won=1, was_right=3)
    assert found.drop.value == pytest.approx(0.2) and found.flips.value == pytest.approx(0.8)


def test_the_exact_bound_of_a_share():
    """Where the bound is true, so few are counted with chance 1 - confidence; none of n has a closed form."""
    bound = upper_share(3, 872, 0.95)
    assert binom.cdf(3, 872, bound) == pytest.approx(0.05)
    assert upper_share(0, 299, 0.95) == pytest.approx(1 - 0.05 ** (1 / 299)) and upper_share(7, 7, 0.95) == 1


@pytest.mark.parametrize(("lost", "won", "total"), [(0, 0, 300), (3, 1, 872), (1, 6, 400), (40, 30, 500)])
def test_the_paired_bound_against_a_likelihood_maximized_by_search(lost, won, total):
    """Tango's score, with the restricted likelihood maximized numerically, is -z at the bound."""
    z = float(norm.ppf(0.95))
    bound = upper_drop(lost, won, total, 0.95)

    def minus_likelihood(q):
        shares = (q + bound, q, 1 - bound - 2 * q)
        counts = (lost, won, total - lost - won)
        return -sum(count * math.log(max(share, 1e-300)) for count, share in zip(counts, shares, strict=True))

    q = minimize_scalar(minus_likelihood, bounds=(0, (1 - bound) / 2), method="bounded", options={"xatol": 1e-10}).x
    score = (lost - won - total * bound) / math.sqrt(total * (2 * q + bound * (1 - bound)))
    assert score == pytest.approx(-z, abs=2e-3)


def test_the_paired_bound_holds_its_confidence():
    """Of drops drawn at 1 point, at most about 5 % are bounded below it."""
    generator = np.random.default_rng(0)
    counts = generator.multinomial(872, [0.02, 0.01, 0.97], size=1500)
    broken = np.mean([upper_drop(int(a), int(b), 872, 0.95) < 0.01 for a, b, _ in counts])
    assert broken < 0.07


def test_texts_that_a_proof_needs():
    """299 texts prove 1 % at 95 %, 298 do not; for half a point of accuracy it is 539."""
    assert texts_needed(0.01, 0.95) == 299
    assert upper_share(0, 299, 0.95) <= 0.01 < upper_share(0, 298, 0.95)
    needed = texts_needed(0.005, 0.95, paired=True)
    assert upper_drop(0, 0, needed, 0.95) <= 0.005 < upper_drop(0, 0, needed - 1, 0.95)


@pytest.mark.parametrize("kind", ["embeddings", "regression"])
def test_what_has_no_answers_is_refused(kind):
    """One line that names what is supported."""
    with pytest.raises(UsageError, match=f"`max_flips`: the model answers with {kind}.*classes, tags, spans"):
        check_answers(kind, "max_flips")
