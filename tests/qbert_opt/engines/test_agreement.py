"""How far answers are from torch's: hand arithmetic, and what must count for nothing."""

import math

import numpy as np
import pytest

from qbert_opt.engines.agreement import AgreementLimits, Check, answer_rows, check_session, compare
from qbert_opt.workflows.export_verdict import ROUNDING_LIMITS

F = np.float32


class _Echo:
    """An engine that answers with what it was given."""

    def __init__(self, outputs):
        self.outputs = outputs

    def run(self, _inputs):
        return self.outputs


def test_kl_and_changed_answers_by_hand():
    """Softmax (3/4, 1/4) against (1/2, 1/2): KL = 3/4 ln(3/2) + 1/4 ln(1/2); the second answer flips."""
    reference = np.array([[math.log(3), 0.0], [0.0, 4.0]], F)
    found = np.array([[0.0, 0.0], [1.0, 0.0]], F)
    agreement = compare("classes", [(reference, found)])
    q = 1 / (1 + math.exp(-1))
    p = 1 / (1 + math.exp(4))
    second = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert agreement.loss == pytest.approx((0.75 * math.log(1.5) + 0.25 * math.log(0.5) + second) / 2, rel=1e-5)
    assert (agreement.answers, agreement.decided, agreement.flipped) == (2, 2, 1)
    assert agreement.difference == pytest.approx(2.5 / 2)  # centered: (-2, 2) against (.5, -.5)


def test_undecided_answers_do_not_refuse():
    """Logits of ±0.1 that move by 0.03, even across zero, lose nothing that anybody would notice."""
    reference = np.array([[0.1, -0.1], [-0.08, 0.08], [0.005, -0.005]], F)
    found = reference + np.array([[0.03, -0.03]], F) * np.array([[1], [-1], [-1]], F)
    agreement = compare("classes", [(reference, found)])
    assert agreement.decided == 0 and agreement.loss < 1e-3
    assert agreement.difference == pytest.approx(0.3, rel=1e-4) and ROUNDING_LIMITS.hold(agreement)


def test_one_quiet_batch_does_not_scale_the_difference():
    """The same difference beside confident batches is small: all batches share one scale."""
    quiet = np.array([[0.1, -0.1]], F)
    loud = np.array([[5.0, -5.0]], F)
    agreement = compare("classes", [(quiet, quiet + np.array([[0.03, -0.03]], F)), (loud, loud)])
    assert agreement.difference == pytest.approx(0.03 / 5, rel=1e-4)


def test_shifted_logits_are_the_same_answers():
    """Softmax does not see a constant in a row."""
    reference = np.array([[3.0, 1.0, 0.0]], F)
    agreement = compare("classes", [(reference, reference + 7)])
    assert agreement.loss == pytest.approx(0, abs=1e-9) and agreement.difference == pytest.approx(0, abs=1e-6)


def test_embeddings_and_regressions_by_hand():
    """A quarter turn off has cosine 0; relative to the variance of (1, 3), 0.1² is 1 %."""
    agreement = compare("embeddings", [(np.array([[2.0, 0.0]], F), np.array([[0.0, 2.0]], F))])
    assert agreement.cosine == pytest.approx(0) and agreement.loss == pytest.approx(2)
    agreement = compare("regression", [(np.array([[1.0], [3.0]], F), np.array([[1.1], [2.9]], F))])
    assert agreement.loss == pytest.approx(0.01, rel=1e-4)


def test_only_labelled_positions_count():
    """Padding may hold anything, except in embeddings, whose users multiply it by 0: NaN there is refused."""
    where = np.array([[True, True, False]])
    logits = np.array([[[1, 2], [3, 4], [np.nan, 0]]], F)
    np.testing.assert_array_equal(answer_rows("tags", {"logits": logits}, where), [[1, 2], [3, 4]])
    spans = {"start_logits": logits[..., 0], "end_logits": logits[..., 1]}
    rows = answer_rows("spans", spans, where)
    assert rows.shape == (2, 3) and (rows[:, 2] < -1e29).all() and np.isfinite(rows).all()
    agreement = compare("spans", [(rows, rows)])
    assert agreement.loss == 0 and agreement.difference == 0 and agreement.answers == 2
    weights = np.array([[0.5, 0.5, 0]])
    assert np.isnan(answer_rows("embeddings", {"last_hidden_state": logits}, weights)).any()
    found = answer_rows("embeddings", {"last_hidden_state": np.nan_to_num(logits)}, weights)
    np.testing.assert_allclose(found, [[2, 3]])


@pytest.mark.parametrize(
    "outputs",
    [{}, {"logits": np.zeros((0, 2), F)}, {"logits": np.full((1, 2), np.nan, F)}, {"logits": np.zeros((1, 3))}],
)
def test_broken_outputs_never_hold(outputs):
    """OpenVINO returns empty arrays without an error where a kernel is missing."""
    check = Check({}, np.zeros((1, 2), F))
    found = check_session(_Echo(outputs), "classes", [check])
    assert found is None and not AgreementLimits().hold(found)
