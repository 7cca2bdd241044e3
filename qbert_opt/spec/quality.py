"""Limits on changed answers and lost accuracy, each to be proven on held-out text."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import UsageError

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class QualityLimits:
    """Limits on answers, as shares (0.005 is half a point); None is no limit.

    Attributes:
        accuracy_drop: largest loss of accuracy relative to the float model.
        flips: largest share of texts whose answer differs from the float model's.
        confidence: one-sided confidence with which each limit is proven on held-out text in one attempt.
        attempts: maximum number of attempts.
    """

    accuracy_drop: float | None = None
    flips: float | None = None
    confidence: float = CONFIDENCE
    attempts: int = 1

    def shared_by(self, attempts: int) -> QualityLimits:
        """Return the limits for each of several attempts, so that all of them together have this confidence.

        The chance of a wrong proof is at most the sum of the attempts' (Bonferroni).

        Args:
            attempts: their largest number, at least 1.
        """
        return replace(self, confidence=1 - (1 - self.confidence) / attempts, attempts=attempts)

    def __bool__(self) -> bool:
        return self.accuracy_drop is not None or self.flips is not None


def parse_quality(
    max_accuracy_drop: str | None, max_flips: str | None, confidence: str | float = CONFIDENCE
) -> QualityLimits:
    """Read limits as people write them.

    Args:
        max_accuracy_drop: points of accuracy: `0.5pt`; `0.5%` means the same.
        max_flips: percent of the texts: `1%`.
        confidence: `95%`, or a share.

    Raises:
        UsageError: no unit, or a value outside of its range.

    >>> parse_quality("0.5pt", "1%").accuracy_drop
    0.005
    """
    drop = None if max_accuracy_drop is None else _share(max_accuracy_drop, "`max_accuracy_drop`", ("pt", "%"))
    flips = None if max_flips is None else _share(max_flips, "`max_flips`", ("%",))
    level = confidence if isinstance(confidence, float) else _share(confidence, "`confidence`", ("%",))
    if not 0.5 <= level < 1:
        raise UsageError(f"`confidence` {confidence}: legal: 50% up to, but not including, 100%.")
    return QualityLimits(drop, flips, level)


def _share(text: str, parameter: str, units: tuple[str, ...]) -> float:
    """Read a number with a unit that is a hundredth."""
    stripped = text.strip()
    unit = next((unit for unit in units if stripped.endswith(unit)), None)
    try:
        value = float(stripped.removesuffix(unit)) if unit is not None else None
    except ValueError:
        value = None
    if value is None or not 0 < value < 100:
        examples = " or ".join(f"0.5{unit}" for unit in units)
        raise UsageError(f"{parameter} {text}: legal: more than 0 and less than 100 with its unit, such as {examples}.")
    return round(value / 100, 12)
