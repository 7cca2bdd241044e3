"""Folds for cross-fitting: samples that share text are in one fold, whatever their number."""

import numpy as np
import pytest
import torch

from qbert_opt.models.samples import TokenBatch
from qbert_opt.scoring.folds import assigned_folds, fold_means, sample_groups
from qbert_opt.scoring.task import Estimate


def batch(samples, texts=None):
    """A batch of these samples; only their numbers are read."""
    return TokenBatch({"attention_mask": torch.ones(len(samples), 3)}, tuple(samples), texts=texts)


def test_samples_without_shared_text_take_the_folds_in_turn():
    """As before: sample i is in fold i mod 8."""
    assert assigned_folds(range(40)) == [i % 8 for i in range(40)]
    assert assigned_folds(range(15)) == []


def test_windows_of_one_text_are_in_one_fold():
    """Samples 0, 1, 2 are windows of text 0, sample 3 is text 1, and so on; batches are in another order."""
    texts = tuple((f"question {i}", f"context {i}") for i in range(20))
    owners = [0, 0, 0, *range(1, 20), 19]
    numbers = [22, 3, 1, *(i for i in range(23) if i not in (22, 3, 1))]
    batches = [batch(numbers[:5], tuple(owners[i] for i in numbers[:5]))]
    batches.append(batch(numbers[5:], tuple(owners[i] for i in numbers[5:])))
    groups = sample_groups(texts, batches, by_context=True)
    assert groups == owners
    folds = assigned_folds(groups)
    assert len({folds[sample] for sample in (0, 1, 2)}) == 1 and folds[21] == folds[22]
    assert sorted(np.bincount(folds).tolist()) == [2, 3, 3, 3, 3, 3, 3, 3]


def test_questions_about_one_paragraph_are_in_one_fold():
    """Only where a text is a question with its context; other sentence pairs are samples of their own."""
    texts = tuple((f"question {i}", f"context {i // 4}") for i in range(32))
    assert sample_groups(texts, [batch(range(32))], by_context=True) == [i // 4 for i in range(32)]
    assert sample_groups(texts, [batch(range(32))], by_context=False) == list(range(32))
    folds = assigned_folds([i // 4 for i in range(32)])
    assert folds == [i // 4 % 4 for i in range(32)]  # eight paragraphs: four folds of two


@pytest.mark.parametrize("paragraphs", [1, 2, 3])
def test_too_few_paragraphs_have_no_folds(paragraphs):
    """Folds of fewer than two independent texts judge nothing."""
    groups = [i % paragraphs for i in range(32)]
    assert assigned_folds(groups) == [] and len(fold_means(torch.ones(32, 2).double(), groups)) == 0


def test_the_standard_error_is_over_independent_texts():
    """Each text repeated three times has the standard error and effective sample size of the texts alone."""
    losses = torch.from_numpy(np.random.default_rng(0).gamma(1.0, 1.0, (30, 4)))
    alone = Estimate.over(losses)
    again = Estimate.over(losses.repeat_interleave(3, 0), groups=[i // 3 for i in range(90)])
    assert torch.allclose(alone.std_error, losses.std(0) / 30**0.5)
    assert torch.allclose(again.std_error, alone.std_error) and torch.allclose(again.value, alone.value)
    assert again.effective_samples == pytest.approx(alone.effective_samples)
    assert torch.allclose(again.folds.mean(0), alone.folds.mean(0), rtol=0.2)
