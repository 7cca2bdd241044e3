"""Partial pooling of scores: what it keeps, what it shrinks, and that many choices then do no harm."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qbert_opt.spec.pooling import Pooling, pooled
from qbert_opt.spec.scores import ScoreTable

FOLDS = 8


def with_folds(table, folds):
    """Return the table with these scores on each fold, [folds, matrices, choices], and their mean."""
    as_rows = lambda array: tuple(tuple(None if np.isnan(v) else float(v) for v in row) for row in array)  # noqa: E731
    update = {"value": as_rows(folds.mean(0)), "fold_value": tuple(as_rows(fold) for fold in folds)}
    return ScoreTable.model_validate(table.model_copy(update=update).model_dump(by_alias=True))


def lognormal(generator, true, own, shared):
    """Return folds whose noise has mean 1: a part that the choices of a matrix share, and one of each score's own."""
    sigma = np.hypot(own, shared)
    noise = own * generator.normal(size=(FOLDS, *true.shape))
    noise += shared * generator.normal(size=(FOLDS, len(true), 1))
    return true * np.exp(noise - sigma**2 / 2)


def by_hand(folds, errors):
    """Return the pooled scores of a table without masks: least squares on dummies, and every fold left out in turn."""
    _, rows, columns = folds.shape
    dummies = [np.repeat(np.eye(rows), columns, 0), np.tile(np.eye(columns), (rows, 1)), np.log(errors).reshape(-1, 1)]
    effects = np.hstack(dummies)

    def split(mean):
        logs = np.log(mean).ravel()
        fit = effects @ np.linalg.lstsq(effects, logs, rcond=None)[0]
        return fit, logs - fit

    fit, residual = split(folds.mean(0))
    without = np.array([split(np.delete(folds, k, 0).mean(0))[1] for k in range(len(folds))])
    variance = (len(folds) - 1) / len(folds) * ((without - without.mean(0)) ** 2).sum(0)
    noise = np.repeat(variance.reshape(rows, columns).mean(1), columns)
    spread = max(0.0, np.mean(residual**2) - noise.mean())
    return np.exp(fit + residual * spread / (spread + noise)).reshape(rows, columns)


def test_agrees_with_least_squares_on_dummies(rtn_scores):
    """The basis, the jackknife and the shrinkage are those of the formulas, written out a second time."""
    whole = rtn_scores.values()
    keep = np.isfinite(whole).all(0)
    true, errors = whole[:, keep], np.array(rtn_scores.weight_error, dtype=float)[:, keep]
    rows = lambda array: tuple(map(tuple, array.tolist()))  # noqa: E731
    names = tuple(name for name, kept in zip(rtn_scores.choices, keep, strict=True) if kept)
    update = {"choices": names, "masks": {}, "std_error": rows(true), "weight_error": rows(errors)}
    folds = lognormal(np.random.default_rng(0), true, 1.0, 0.5)
    table = with_folds(rtn_scores.model_copy(update={**update, "value": rows(true)}), folds)
    assert pooled(table).values() == pytest.approx(by_hand(folds, errors), rel=1e-6)


def test_scores_without_noise_stay_as_they_are(rtn_scores):
    """Where the folds agree, a residual is no chance, however large."""
    table = with_folds(rtn_scores, np.stack([rtn_scores.values()] * FOLDS))
    assert pooled(table).values() == pytest.approx(rtn_scores.values(), rel=1e-9, nan_ok=True)


def test_what_a_text_cannot_tell_apart_is_pooled_fully(rtn_scores):
    """Scores that are effects of matrix and choice, and noise beside them: the pooled ones are nearer the effects."""
    generator = np.random.default_rng(1)
    mask = np.isfinite(rtn_scores.values())
    true = np.where(mask, np.exp(generator.normal(size=(len(mask), 1)) + generator.normal(size=mask.shape[1])), np.nan)
    table = with_folds(rtn_scores, lognormal(generator, true, 1.0, 0.0))
    off = [np.log(values / true)[mask] for values in (table.values(), pooled(table).values())]
    assert off[1].std() < 0.6 * off[0].std()


@settings(max_examples=15, deadline=None)
@given(factor=st.floats(1e-6, 1e6), seed=st.integers(0, 2**16))
def test_the_unit_does_not_matter(rtn_scores, factor, seed):
    """Scores in another unit are pooled to the same plan."""
    folds = lognormal(np.random.default_rng(seed), rtn_scores.values(), 0.7, 0.7)
    pooling = Pooling.of(with_folds(rtn_scores, folds))
    assert pooling.estimate(factor * folds) == pytest.approx(factor * pooling.estimate(folds), rel=1e-8, nan_ok=True)


def test_leaves_alone_what_has_no_logarithm_or_no_folds(rtn_scores):
    """A matrix that the loss does not depend on keeps its scores of 0; masks stay; too few folds pool nothing."""
    folds = lognormal(np.random.default_rng(2), rtn_scores.values(), 1.0, 0.0)
    folds[:, 0] *= 0.0
    table = with_folds(rtn_scores, folds)
    found = pooled(table)
    assert found.value[0] == table.value[0] and found.value[1] != table.value[1]
    assert (np.isnan(found.values()) == np.isnan(table.values())).all()
    assert found.fold_value == table.fold_value
    few = table.model_copy(update={"fold_value": table.fold_value[:3]})
    assert pooled(few) == few


def test_many_choices_do_no_harm(rtn_scores):
    """Where matrices and choices explain most, the luckiest of many choices misleads, and pooled scores do not."""
    generator = np.random.default_rng(3)
    mask = np.isfinite(rtn_scores.values())
    effects = generator.normal(size=(len(mask), 1)) + 0.3 * generator.normal(size=mask.shape[1])
    true = np.where(mask, np.exp(effects + 0.1 * generator.normal(size=mask.shape)), np.nan)
    losses = []
    for _ in range(20):
        table = with_folds(rtn_scores, lognormal(generator, true, 1.5, 0.5))
        picks = [np.nanargmin(values, axis=1) for values in (table.values(), pooled(table).values())]
        losses.append([true[range(len(pick)), pick].sum() for pick in picks])
    lost_by_chance = np.mean(losses, axis=0) - np.nanmin(true, axis=1).sum()
    assert lost_by_chance[1] < 0.7 * lost_by_chance[0]
