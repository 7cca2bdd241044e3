"""Frontiers side by side: labels tell them apart, a device without any plan has its reason, marks are what they say."""

import pytest

from qbert_opt.errors import InfeasibleError, InputFileError, UsageError
from qbert_opt.planning.frontier import trade_off
from qbert_opt.planning.measured_points import MeasuredPoint, MeasuredPoints
from qbert_opt.planning.program import PlanningTask
from qbert_opt.planning.recipes import recipe_allocation
from qbert_opt.reports.plots import trade_off as picture
from qbert_opt.spec.limits import Limits
from qbert_opt.workflows.frontiers import Curve, Subject, frontiers, marks, subjects


def test_labels_name_what_differs(reference, car_soc):
    """One table: the device; one device: the table; both where there are several of both."""
    two = [("gptq", reference), ("rtn", reference)]
    assert [s.label for s in subjects(two[:1], [None])] == ["gptq"]
    assert [s.label for s in subjects(two[:1], [car_soc])] == ["car-soc"]
    assert [s.label for s in subjects(two, [None])] == ["gptq", "rtn"]
    assert [s.label for s in subjects(two, [car_soc, car_soc])] == ["gptq, car-soc"] * 2 + ["rtn, car-soc"] * 2


def test_each_subject_has_its_frontier_or_a_reason(rtn_scores, monkeypatch):
    """Equal to `trade_off` of that subject alone; one without any plan says why."""
    alone = trade_off(PlanningTask(rtn_scores, Limits()), ("bytes",), points=3)
    [curve] = frontiers([Subject("ours", rtn_scores)], ("bytes",), points=3)
    assert curve.label == "ours" and curve.trade_off.points == alone.points

    def none(*_, **__):
        raise InfeasibleError("no plan keeps 1 MB")

    monkeypatch.setattr("qbert_opt.workflows.frontiers.trade_off", none)
    assert frontiers([Subject("tiny", rtn_scores)]) == [Curve("tiny", None, "no plan keeps 1 MB")]


def test_marks(reference, reference_plan, gptq_plan):
    """The chosen plan lies at its own bytes and predicted loss, as do recipes; measured points keep their interval."""
    point = MeasuredPoint(name="ours", loss=2e-3, low=1e-3, high=3e-3, encoder_bytes=25_000_000)
    subject = Subject("ours", reference)
    *recipes, measured, chosen = marks(subject, plan=reference_plan, measured=MeasuredPoints(points=(point,)))
    assert (measured.label, measured.usage, measured.low) == ("measured: ours", {"bytes": 25e6}, 1e-3)
    for mark in recipes:
        assert mark.loss == recipe_allocation(reference, mark.label, Limits()).predicted_loss
    assert [mark.label for mark in recipes] == ["qbert-2/3", "qbert-2/4"]
    assert chosen.usage["bytes"] == reference_plan.encoder_bytes and chosen.loss == reference_plan.predicted_loss
    assert 0 < chosen.low < chosen.loss < chosen.high
    assert chosen.high - chosen.loss == pytest.approx(reference_plan.predicted_std_error)
    with pytest.raises(InputFileError, match="the plan is for"):
        marks(subject, plan=gptq_plan)


def test_a_surface_is_of_one_subject_that_has_a_plan(reference):
    """Two cannot be drawn over each other; none cannot be drawn at all."""
    none = Curve("tiny", None, "tiny: no plan keeps 1 MB")
    with pytest.raises(UsageError, match="one device and one table"):
        picture.draw([none, none], ("bytes", "bops"))
    with pytest.raises(InfeasibleError, match="no plan keeps 1 MB"):
        picture.draw([none], ("bytes", "bops"))
