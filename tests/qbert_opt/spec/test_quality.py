"""Limits on answers as people write them."""

import pytest

from qbert_opt.errors import UsageError
from qbert_opt.spec.quality import QualityLimits, parse_quality


def test_points_and_percent():
    """`0.5pt` and `0.5%` are the same drop; flips are a share; a confidence is either."""
    assert parse_quality("0.5pt", None) == parse_quality("0.5%", None) == QualityLimits(0.005)
    assert parse_quality(None, " 1% ", "99%") == QualityLimits(flips=0.01, confidence=0.99)
    assert not parse_quality(None, None) and parse_quality(None, "2%", 0.9).confidence == 0.9


@pytest.mark.parametrize("drop", ["0.5", "half", "0pt", "-1pt", "100%", "nan%", "pt"])
def test_a_drop_without_unit_or_range_is_refused(drop):
    """The message has both forms."""
    with pytest.raises(UsageError, match=r"`max_accuracy_drop` .*0\.5pt or 0\.5%"):
        parse_quality(drop, None)


@pytest.mark.parametrize(("flips", "confidence"), [("1pt", "95%"), ("1%", "100%"), ("1%", "30%"), ("1%", "95")])
def test_other_wrong_units(flips, confidence):
    """Points are of accuracy alone; a confidence is a percentage below 100."""
    with pytest.raises(UsageError, match=r"`max_flips`|`confidence`"):
        parse_quality(None, flips, confidence)
