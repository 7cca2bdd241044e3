"""How the main types look in a notebook or a debugger: a line or two, not JSON."""

from qbert_opt.data.reference import reference_scores
from qbert_opt.planning.planner import allocate
from qbert_opt.spec.limits import Limits


def test_repr_and_str_are_short():
    """`repr` is one line, `str` at most two, and both contain the main figures."""
    scores = reference_scores()
    plan = allocate(scores, Limits(encoder_bytes=25_000_000))
    for noun in (scores, scores.profile, plan):
        assert "\n" not in repr(noun) and len(repr(noun)) < 200
        assert str(noun).count("\n") <= 1 and len(str(noun)) < 400 and scores.profile.name in str(noun)
    assert "encoder_bytes=24999316" in repr(plan) and f"{plan.predicted_loss:.4g} ± " in str(plan)
    assert f"{plan}" == str(plan)
