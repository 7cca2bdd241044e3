"""Texts do one job each, and the order in which plans are checked is fixed before the check."""

from dataclasses import dataclass
from pathlib import Path

import pytest

import qbert_opt as qb
from qbert_opt.costs.workload import Workload
from qbert_opt.evaluation.counts import ChangedAnswers
from qbert_opt.evaluation.flips import flip_relation
from qbert_opt.planning.constraints import PlanConstraints
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.quality import QualityLimits
from qbert_opt.workflows import proving
from qbert_opt.workflows.proving import likely_loss, proofs, prove_smallest
from qbert_opt.workflows.route import Request, find_route
from qbert_opt.workflows.shipping import Shipped, answers_and_targets
from qbert_opt.workflows.text_split import split_texts


@dataclass(frozen=True)
class Checked:
    """Stands for a setup: only the number of check texts is read."""

    check: tuple = (0,) * 2000
    targets: object = None


@pytest.fixture
def walk(tiny, sentences, rtn_scores, monkeypatch, tmp_path):
    """Check plans that are told how many of 2000 answers they change, in order; returns what was tried too."""
    relation = flip_relation(*answers_and_targets(tiny, sentences))
    sums = rtn_scores.model_copy(update={"fold_value": ()})  # no plan is solved eight times again to judge it
    request = Request(sums, Limits(), None, Workload(), PlanConstraints())
    route = find_route(request, None, lambda plan: None)

    def run(flipped):
        tried = []

        def ship(setup, plan, folder, progress):
            tried.append(plan)
            return Shipped(plan, Path(folder), None, None, ChangedAnswers(2000, flipped[len(tried) - 1]))

        monkeypatch.setattr(proving, "ship", ship)
        return prove_smallest(
            Checked(), route, relation, QualityLimits(flips=0.05), tmp_path / "tried", lambda *_: None
        ), tried

    return run


def test_the_last_plan_before_the_first_failure_is_taken(walk):
    """Sizes fall; what comes after a failure is not looked at, though it would pass."""
    found, tried = walk([0, 3, 200, 0, 0, 0, 0, 0, 0, 0, 0])
    assert len(tried) == 3 and found.shipped.plan == tried[1] == found.solved.plan
    sizes = [plan.total_bytes for plan in tried]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 3


def test_where_all_hold_the_smallest_is_taken(walk, monkeypatch):
    """The sequence ends by itself; a third of its steps, each of which is several solved problems."""
    monkeypatch.setattr(proving, "STEPS", proving.STEPS[::3])
    found, tried = walk([0] * (len(proving.STEPS) + 1))
    assert found.shipped.plan == tried[-1] and len(tried) > 3


@pytest.mark.slow
def test_the_fastest_plan_is_sought_where_latency_counts(reference_sums, car_soc, monkeypatch, tmp_path):
    """The plan that is checked after that of least loss is predicted to be faster; bits and residency together."""
    few = PlanConstraints(bits=(2, 4, 8), groupings=("columns:128",))  # one grouping: seconds, where all take twenty
    request = Request(reference_sums, Limits(), car_soc, Workload(), few, "latency")
    route, tried = find_route(request, None, lambda plan: None), []

    def ship(setup, plan, folder, progress):
        tried.append(plan)
        return Shipped(plan, Path(folder), None, None, ChangedAnswers(2000, 0))

    monkeypatch.setattr(proving, "ship", ship)
    monkeypatch.setattr(proving, "likely_loss", lambda *_, labelled: 0.05)
    monkeypatch.setattr(proving, "STEPS", (2.0,))
    monkeypatch.setattr(proving, "LATENCY_STRIDE", 1)
    prove_smallest(Checked(), route, None, QualityLimits(flips=0.5), tmp_path / "tried", lambda *_: None)
    first, second = tried
    assert first.device.latency_s > second.device.latency_s and first.predicted_loss < second.predicted_loss


def test_a_first_failure_is_infeasible(walk):
    """No later plan is tried: the confidence would no longer hold."""
    with pytest.raises(qb.InfeasibleError, match=r"`max_flips` 5 %: measured 10\.00 % of 2000 texts"):
        walk([200, 0, 0])


def test_the_likely_loss_is_where_the_proof_just_holds(tiny, sentences):
    """Expected counts at that loss prove the limit, at a little more they do not; more texts allow more loss."""
    relation = flip_relation(*answers_and_targets(tiny, sentences))
    quality = QualityLimits(accuracy_drop=0.03, flips=0.05)
    few, many = (likely_loss(relation, quality, n, labelled=True) for n in (200, 5000))
    assert 0 < few < many
    flips, drop = relation.flipped(few), relation.dropped(few)

    def holds(more):
        lost, won = 200 * more * (flips + drop) / 2, 200 * more * (flips - drop) / 2
        return all(p.holds for p in proofs(ChangedAnswers(200, 200 * more * flips, lost, won), quality))

    assert holds(1) and not holds(1.05)


def test_calibration_scoring_and_check_texts_are_apart(sentences):
    """Half of the data checks by default; test data loses what calibrates or scores, and that is counted."""
    split = split_texts(sentences, None, None, QualityLimits())
    assert (split.plan.num_calibration, split.plan.num_scored, len(split.check)) == (30, 30, 60)
    assert len({*split.seen.texts, *split.check.texts}) == 120 and set(split.scored.texts) < set(split.seen.texts)
    split = split_texts(sentences, sentences, qb.CalibrationPlan(40, 40, 1), QualityLimits())
    assert len(split.check) == 40 and split.removed == 80 and not set(split.check.texts) & set(split.seen.texts)
    assert "40 texts calibrate, 40 score, 40 of sentences check (80 more calibrate or score)" in str(split)


def test_without_texts_to_hold_out(sentences):
    """The scoring texts are measured on and that is said; with a limit on answers it is refused with the number."""
    everything = qb.CalibrationPlan(60, 60, 0)
    split = split_texts(sentences, None, everything, QualityLimits())
    assert not split.held_out and "nothing was left to hold out" in str(split)
    with pytest.raises(qb.InputFileError, match=r"0 texts are held out.* needs at least 59"):
        split_texts(sentences, None, everything, QualityLimits(flips=0.05))
    with pytest.raises(qb.InputFileError, match=r"97\.5 % confidence for each of 2 ways .* needs at least 72"):
        split_texts(sentences, None, everything, QualityLimits(flips=0.05).shared_by(2))
