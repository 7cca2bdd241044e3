"""Changed answers, counted text by text, and what such counts prove about other texts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import betaincinv, ndtri  # `scipy.stats` has the same quantiles, and takes a second to import

from ..models.heads import KINDS
from ..models.samples import Outputs, Targets
from .intervals import Interval

TWO_SIDED = 0.95


@dataclass(frozen=True, slots=True)
class ChangedAnswers:
    """How a model's answers differ from its reference's. Texts are drawn independently, their rows are not.

    Attributes:
        num_texts: texts that were answered.
        flipped: texts of which any answer changed.
        lost: texts that were right and became wrong; None where texts have no labels of their own.
        won: the reverse.
        was_right: texts that the reference answered correctly.
    """

    num_texts: int
    flipped: int
    lost: int | None = None
    won: int | None = None
    was_right: int | None = None

    def as_of(self, num_texts: int) -> ChangedAnswers:
        """Return the expected counts for another number of texts, in proportion, rounded up.

        Args:
            num_texts: that number.
        """

        def scaled(count: int | None) -> int | None:
            return None if count is None else math.ceil(count * num_texts / self.num_texts)

        flipped = math.ceil(self.flipped * num_texts / self.num_texts)
        return ChangedAnswers(num_texts, flipped, scaled(self.lost), scaled(self.won), scaled(self.was_right))

    @property
    def flips(self) -> Interval:
        """Share of texts that flipped, with its exact 95 % interval (Clopper and Pearson 1934)."""
        outside = (1 - TWO_SIDED) / 2
        low = 0.0 if self.flipped == 0 else float(betaincinv(self.flipped, self.num_texts - self.flipped + 1, outside))
        return Interval(self.flipped / self.num_texts, low, upper_share(self.flipped, self.num_texts, 1 - outside))

    @property
    def drop(self) -> Interval | None:
        """Accuracy lost, with its paired 95 % interval; None without labels."""
        if self.lost is None or self.won is None:
            return None
        outside = (1 - TWO_SIDED) / 2
        high = upper_drop(self.lost, self.won, self.num_texts, 1 - outside)
        low = -upper_drop(self.won, self.lost, self.num_texts, 1 - outside)
        return Interval((self.lost - self.won) / self.num_texts, low, high)


def changed_answers(found: Outputs, reference: torch.Tensor, targets: Targets | None = None) -> ChangedAnswers:
    """Count the texts whose answers differ from the reference's.

    Args:
        found: a model's answers.
        reference: the reference's values on the same rows, `[rows, columns]`.
        targets: the right answers; used for classifiers, which have one answer per text.
    """
    now, before = found.values.argmax(-1), reference.argmax(-1)
    texts, where = np.unique(found.by_text.numpy(), return_inverse=True)
    changed = np.zeros(len(texts), dtype=bool)
    np.logical_or.at(changed, where, (now != before).numpy())
    flipped = int(changed.sum())
    if targets is None or not KINDS[found.kind].classifies:
        return ChangedAnswers(len(texts), flipped)
    right, was_right = now == targets.rows, before == targets.rows
    lost, won = int((was_right & ~right).sum()), int((~was_right & right).sum())
    return ChangedAnswers(len(texts), flipped, lost, won, int(was_right.sum()))


def flipped_rows(
    found: Outputs, targets: Targets | None, reference: torch.Tensor
) -> tuple[int, int | None, int | None]:
    """Count rows whose answer differs from the reference's, correct ones that became wrong, and the reverse.

    Args:
        found: the model's answers.
        targets: the correct ones; without them, only the first count is known.
        reference: values `[rows, columns]` of the reference for the same rows.
    """
    answers, before = found.values.argmax(-1), reference.argmax(-1)
    flipped = int((answers != before).sum())
    if targets is None:
        return flipped, None, None
    right, was_right = answers == targets.rows, before == targets.rows
    return flipped, int((was_right & ~right).sum()), int((~was_right & right).sum())


def upper_share(count: float, total: int, confidence: float) -> float:
    """Exact one-sided upper bound of a share (Clopper and Pearson 1934).

    Args:
        count: texts that have it; an expected count need not be whole.
        total: texts.
        confidence: that the share among all texts is no larger.
    """
    return 1.0 if count >= total else float(betaincinv(count + 1, total - count, confidence))


def upper_drop(lost: float, won: float, total: int, confidence: float) -> float:
    """One-sided upper bound of the loss of accuracy between two models on the same texts.

    The score bound for a difference of paired proportions (Tango 1998, Statistics in Medicine 17, 891): the largest δ
    with lost − won − nδ ≥ −z √(n (2 q + δ(1 − δ))), q being the likeliest share of won texts where the loss is δ. It
    keeps its confidence even if few or no answers change; with none it is z² / (n + z²).

    Args:
        lost: texts that became wrong; an expected count need not be whole.
        won: texts that became right.
        total: texts.
        confidence: that the loss of accuracy among all texts is no larger.
    """
    z = float(ndtri(confidence))

    def excess(delta: float) -> float:
        linear = -lost - won + (2 * total - lost + won) * delta
        constant = -won * delta * (1 - delta)
        q = (math.sqrt(max(0.0, linear**2 - 8 * total * constant)) - linear) / (4 * total)
        return lost - won - total * delta + z * math.sqrt(max(0.0, total * (2 * q + delta * (1 - delta))))

    low, high = (lost - won) / total, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high


def texts_needed(limit: float, confidence: float, *, paired: bool = False) -> int:
    """Return the smallest number of texts that can prove a limit, which they do if no answer changes.

    Args:
        limit: on the share of flips, or on the drop of accuracy.
        confidence: of the proof.
        paired: a drop by `upper_drop`; otherwise a share by `upper_share`.
    """
    if paired:
        return math.ceil(float(ndtri(confidence)) ** 2 * (1 - limit) / limit - 1e-9)
    return math.ceil(math.log1p(-confidence) / math.log1p(-limit) - 1e-9)
