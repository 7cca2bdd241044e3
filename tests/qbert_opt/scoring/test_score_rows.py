"""Rows of a score table: the stored numbers of a matrix, and the common scale."""

import numpy as np
import pytest
import torch

from qbert_opt.scoring.score_rows import (
    FEW_TEXTS,
    PRIOR_SPREAD,
    ScoredMatrix,
    common_scale,
    sharp_ratio,
    small_sample_warnings,
)
from qbert_opt.scoring.task import Estimate


def scored(seed, *, scale=None, samples=80, choices=5, heavy=False):
    """A matrix whose losses at temperature 1 are on average `scale` times those at 2."""
    generator = np.random.default_rng(seed)
    losses = generator.gamma(0.02 if heavy else 1.0, 1.0, (samples, 1)) * generator.gamma(1, 1, choices)
    sharp = None if scale is None else torch.from_numpy(scale * losses * generator.uniform(0.5, 1.5, losses.shape))
    return ScoredMatrix.of(Estimate.over(torch.from_numpy(losses), sharp), [1.0] * choices)


@pytest.mark.parametrize("scale", [None, 0.5])
def test_a_row_round_trips(scale):
    """Round trip through the list of numbers that an interrupted run stores."""
    before = scored(0, scale=scale)
    after = ScoredMatrix.from_row(before.row(), 5)
    for name in ("value", "std_error", "weight_error", "folds", "samples", "effective_samples"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    assert after.sharp_folds.size == (0 if scale is None else 40)


def test_the_scale_is_estimated_within_its_error():
    """Over many tables, the error of the factor is what the jackknife states."""
    result = [sharp_ratio([scored(100 * k + i, scale=0.5) for i in range(6)]) for k in range(60)]
    error = np.array([value for value, _ in result]) - 0.5
    stated = np.mean([std_error for _, std_error in result])
    assert abs(error.mean()) < 4 * stated / 60**0.5
    assert error.std() == pytest.approx(stated, rel=0.3)


@pytest.mark.parametrize("heavy", [False, True])
def test_an_uncertain_scale_is_shrunk(heavy):
    """Shrunk more towards 1 the less certain it is; the standard error covers the whole shrinkage."""
    rows = [scored(i, scale=0.5, heavy=heavy) for i in range(6)]
    ratio, error = sharp_ratio(rows)
    scale = common_scale(rows)
    weight = (scale.value - 1) / (ratio - 1)
    assert weight == pytest.approx(PRIOR_SPREAD**2 / (PRIOR_SPREAD**2 + error**2))
    assert 0 < weight < 1 and scale.std_error >= abs(scale.value - ratio)


def test_a_certain_scale_is_not_shrunk():
    """If the ratio is the same in every text, nothing is shrunk."""
    losses = torch.rand(80, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scale = common_scale([ScoredMatrix.of(Estimate.over(losses, 0.5 * losses), [1.0] * 5)])
    assert scale.value == pytest.approx(0.5) and scale.std_error == pytest.approx(0, abs=1e-9)


def test_scores_in_kl_have_no_scale():
    """Scores that are KL already need no scale; neither do scores of 0."""
    assert common_scale([scored(0), scored(1)]) is None
    still = torch.zeros(80, 5, dtype=torch.float64)
    assert common_scale([ScoredMatrix.of(Estimate.over(still, still), [1.0] * 5)]) is None


def test_a_small_effective_sample_size_is_a_warning():
    """On a confident model nearly all loss is in a few texts, and a warning says so."""
    assert small_sample_warnings([scored(0)]) == []
    [warning] = small_sample_warnings([scored(0, heavy=True)])
    assert "of 80 scoring texts" in warning
    assert float(warning.split()[3]) < FEW_TEXTS
