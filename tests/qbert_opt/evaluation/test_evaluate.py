"""What is measured: KL, F1 and their intervals by hand."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qbert_opt.data.texts import LabeledTexts
from qbert_opt.errors import UsageError
from qbert_opt.evaluation.evaluate import evaluate, kl_divergence, outputs
from qbert_opt.evaluation.intervals import Interval, drop_interval, interval, share_interval
from qbert_opt.models.heads.classes import macro_f1
from qbert_opt.models.labels import label_ids


def test_kl_by_hand():
    """KL((1/2, 1/2) || (1/4, 3/4)) = ½ ln 2 + ½ ln ⅔."""
    p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert kl_divergence(p, q).item() == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3))


@given(st.integers(0, 2**31 - 1), st.floats(1e-6, 20))
def test_kl_laws(seed, scale):
    """Zero for identical outputs, also shifted ones; never negative beyond float64 rounding."""
    generator = torch.Generator().manual_seed(seed)
    p = scale * torch.randn(5, 4, generator=generator)
    assert kl_divergence(p, p).abs().max() == 0
    assert kl_divergence(p, p.double() + 3).abs().max() < 1e-12
    assert (kl_divergence(p, p + 1e-4 * torch.randn(5, 4, generator=generator)) > -1e-12).all()


def test_macro_f1_by_hand():
    """Answers 0 0 1 1 2 for labels 0 1 1 1 0: F1 of 0 is 1/2, of 1 is 4/5, of 2 is 0."""
    assert macro_f1(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 0])) == pytest.approx((0.5 + 0.8 + 0) / 3)
    assert macro_f1(np.array([3, 1]), np.array([3, 1])) == 1


@given(st.lists(st.floats(0, 10), min_size=1, max_size=40))
@settings(max_examples=30)
def test_the_interval_holds_the_mean(samples):
    """The bootstrap interval contains the mean, lies within the samples, and is the same at every call."""
    found = interval(np.array(samples))
    slack = 1e-12 * (1 + max(samples))
    assert min(samples) - slack <= found.low <= found.value + slack
    assert found.value - slack <= found.high <= max(samples) + slack
    assert found == interval(np.array(samples))


def test_the_interval_is_as_wide_as_it_should_be():
    """For many samples of a normal law, 95 % is the mean ± 1.96 standard errors."""
    samples = np.random.default_rng(0).standard_normal(2000)
    found = interval(samples)
    half = 1.96 * samples.std() / 2000**0.5
    assert found.low == pytest.approx(found.value - half, abs=0.1 * half)
    assert found.high == pytest.approx(found.value + half, abs=0.1 * half)


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_no_right_answer_or_no_wrong_one_is_not_certainty(right, tiny, sentences):
    """Of 60 texts 0 are right: the exact upper bound is where 60 failures in a row have a chance of 2.5 %."""
    found = share_interval(np.full(60, right), np.ones(60))
    margin = 1 - 0.025 ** (1 / 60)
    assert margin == pytest.approx(0.0596, abs=1e-4)
    assert (found.value, found.low, found.high) == pytest.approx(
        (right, max(0, right - margin), min(1, right + margin))
    )
    uneven = share_interval(np.array([2.0, 0.0, 5.0]) * right, np.array([2.0, 0.0, 5.0]))
    assert uneven.high - uneven.low == pytest.approx(1 - 0.025**0.5), "a text without a word counts for nothing"
    answers = outputs(tiny, sentences).argmax(-1)
    names = ["red", "green", "blue"]
    labels = tuple(names[int(a) if right else (int(a) + 1) % 3] for a in answers)
    measured = evaluate(tiny, dataclasses.replace(sentences, labels=labels)).accuracy
    assert measured.value == right and measured.high - measured.low == pytest.approx(1 - 0.025 ** (1 / 120))


def test_a_share_between_has_the_bootstrap_interval():
    """The exact interval stands in only where the bootstrap has nothing to draw."""
    right = np.array([1.0] * 30 + [0.0] * 30)
    assert share_interval(right, np.ones(60)) == interval(right)
    assert share_interval(np.zeros(3), np.zeros(3)) == Interval(0.0, 0.0, 0.0)


def test_a_model_against_itself(tiny, sentences):
    """KL 0, nothing flipped; accuracy is the share of right answers."""
    truth = outputs(tiny, sentences)
    found = evaluate(tiny, sentences, truth)
    labels = torch.tensor(label_ids(tiny.labels, sentences.labels, source="s", model="tiny"))
    assert (found.kl.value, found.flipped, found.lost, found.won) == (0, 0, 0, 0)
    assert found.accuracy.value == pytest.approx((truth.argmax(-1) == labels).double().mean().item())
    assert found.num_samples == 120


def test_flips_are_counted_apart(tiny, sentences):
    """Flipped answers are those that differ; lost were right, won became right."""
    truth = outputs(tiny, sentences)
    reference = truth.roll(1, dims=-1)
    labels = torch.tensor(label_ids(tiny.labels, sentences.labels, source="s", model="tiny"))
    found = evaluate(tiny, sentences, reference)
    right, was_right = truth.argmax(-1) == labels, reference.argmax(-1) == labels
    assert found.flipped == int((truth.argmax(-1) != reference.argmax(-1)).sum()) == 120
    assert (found.lost, found.won) == (int((was_right & ~right).sum()), int((right & ~was_right).sum()))
    assert found.won - found.lost == int(right.sum()) - int(was_right.sum())
    assert found.drop.value == pytest.approx((found.lost - found.won) / 120)


def test_drops_are_paired():
    """The interval of a drop holds the truth about 95 times of 100, and is narrower than that of two unpaired texts."""
    generator, ones, covered, widths = np.random.default_rng(0), np.ones(100), 0, []
    for seed in range(150):
        before = (generator.random(100) < 0.8).astype(float)
        after = np.where(generator.random(100) < 0.1, 0.0, before)  # a tenth of the right answers is lost: 0.08
        found = drop_interval((before, ones), (after, ones), seed=seed)
        covered += found.low <= 0.08 <= found.high
        widths.append(found.high - found.low)
    assert covered >= 150 * 0.95 - 3 * (150 * 0.95 * 0.05) ** 0.5
    unpaired = np.hypot(*(2 * 1.96 * (p * (1 - p) / 100) ** 0.5 for p in (0.8, 0.72)))
    assert np.mean(widths) < 0.6 * unpaired
    same = drop_interval((before, ones), (before, ones))
    assert (same.value, same.high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 100))) and same.low == -same.high


def test_without_labels_and_reference(tiny, sentences):
    """What cannot be measured is None."""
    found = evaluate(tiny, LabeledTexts("bare", sentences.texts, None))
    assert (found.accuracy, found.macro_f1, found.kl, found.flipped) == (None, None, None, None)


def test_dropout_and_no_texts_are_refused(tiny, sentences):
    """A model in training mode answers otherwise each time; no text has no accuracy."""
    training = dataclasses.replace(tiny, model=copy.deepcopy(tiny.model).train())
    for call in (outputs, evaluate):
        with pytest.raises(UsageError, match=r"the model is in training mode.*model.eval\(\) first"):
            call(training, sentences)
        with pytest.raises(UsageError, match=r"none: holds no `texts`\. Give at least one"):
            call(tiny, LabeledTexts("none", (), ()))
