"""Which texts fit the quantizer, which score, and which check the plan: no text does two of these."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..data.texts import LabeledTexts, split_disjoint
from ..errors import InputFileError
from ..evaluation.counts import texts_needed
from ..quantization.calibration import CalibrationPlan, calibration_texts
from ..spec.quality import QualityLimits

MOST = 256  # texts that fit, and texts that score, by default
MOST_CHECKED = 2000  # of the calibration data's rest; test data is used whole


@dataclass(frozen=True, slots=True)
class TextSplit:
    """Calibration, scoring and check texts.

    Attributes:
        plan: sizes and seed of the calibration and scoring texts.
        scored: the scoring texts.
        seen: the calibration and scoring texts.
        check: the texts that the finished model is measured on.
        held_out: whether `check` is apart from the other two; otherwise it is the scoring texts.
        removed: texts of the test data that were left out because they calibrate or score.
    """

    plan: CalibrationPlan
    scored: LabeledTexts
    seen: LabeledTexts
    check: LabeledTexts
    held_out: bool
    removed: int = 0

    def __str__(self) -> str:
        apart = "" if self.held_out else ", the same as those that score: nothing was left to hold out"
        removed = f" ({self.removed} more calibrate or score)" if self.removed else ""
        return (
            f"{self.plan.num_calibration} texts calibrate, {self.plan.num_scored} score, {len(self.check)} of "
            f"{self.check.name} check{removed}{apart}"
        )


def split_texts(
    data: LabeledTexts,
    test_data: LabeledTexts | None,
    calibration: CalibrationPlan | None,
    quality: QualityLimits,
    seed: int = 0,
) -> TextSplit:
    """Split the calibration data, or take the check texts from test data.

    Args:
        data: the calibration data.
        test_data: held-out texts; None takes what is left of `data`.
        calibration: sizes and seed; by default up to 256 texts each, and half of `data` to check.
        quality: what the check texts must be able to prove.
        seed: of the draw where `calibration` is None.

    Raises:
        InputFileError: too few texts, or too few to prove the limits with the confidence asked for.
    """
    distinct = len(set(data.texts))
    if calibration is None:
        share = max(1, min(MOST, distinct // (4 if test_data is None else 2)))
        calibration = CalibrationPlan(share, share, seed)
    _, scored = calibration_texts(data, calibration)
    [seen] = split_disjoint(data, [calibration.num_calibration + calibration.num_held], seed=calibration.seed)
    removed = 0
    if test_data is not None:
        used = set(seen.texts)
        kept = [index for index, text in enumerate(test_data.texts) if text not in used]
        removed = len(test_data) - len(kept)
        check = test_data.take(kept)
    else:
        left = min(MOST_CHECKED, distinct - calibration.num_calibration - calibration.num_held)
        sizes = [calibration.num_calibration, calibration.num_held, left]
        check = split_disjoint(data, sizes, seed=calibration.seed)[2]
        check = replace(check, name=f"the rest of {data.name}")
    _check_size(check, quality, "`data`" if test_data is None else "`test_data`", calibration)
    if not len(check):
        return TextSplit(calibration, scored, seen, replace(scored, name=f"the scoring texts of {data.name}"), False)
    return TextSplit(calibration, scored, seen, check, True, removed)


def _check_size(check: LabeledTexts, quality: QualityLimits, source: str, calibration: CalibrationPlan) -> None:
    """Refuse texts that could not prove a limit even if no answer changed.

    Raises:
        InputFileError: says how many are needed.
    """
    needs = []
    if quality.flips is not None:
        needs.append((texts_needed(quality.flips, quality.confidence), f"`max_flips` {100 * quality.flips:g}%"))
    if quality.accuracy_drop is not None:
        paired = check.labels is not None
        needed = texts_needed(quality.accuracy_drop, quality.confidence, paired=paired)
        needs.append((needed, f"`max_accuracy_drop` {100 * quality.accuracy_drop:g}pt"))
    needed, limit = max(needs, default=(0, ""))
    if len(check) < needed:
        besides = calibration.num_calibration + calibration.num_held
        ways = "" if quality.attempts == 1 else f" for each of {quality.attempts} ways of rounding inputs"
        more = "" if source == "`test_data`" else f" besides the {besides} that calibrate and score, or `test_data`"
        raise InputFileError(
            f"{check.name}: {len(check)} texts are held out; {limit} at {100 * quality.confidence:g} % confidence"
            f"{ways} needs at least {needed}, even if no answer changes. Give more text in {source}{more}."
        )
