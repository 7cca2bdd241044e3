"""Exact match and F1 of answers, as in SQuAD's official evaluation script."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = frozenset(string.punctuation)


def normalized(text: str) -> str:
    """Return a text in lower case, without punctuation and articles.

    Args:
        text: an answer.
    """
    lower = "".join(letter for letter in text.lower() if letter not in _PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", lower).split())


def exact_match(text: str, accepted: Sequence[str]) -> bool:
    """Return whether an answer equals an accepted one after normalization.

    Args:
        text: the answer; empty for no answer.
        accepted: accepted answers; if empty, no answer is correct.
    """
    return normalized(text) in map(normalized, _accepted(accepted))


def answer_f1(text: str, accepted: Sequence[str]) -> float:
    """Return the best word F1 between an answer and an accepted one after normalization.

    Args:
        text: the answer; empty for no answer.
        accepted: accepted answers; if empty, no answer is correct and has F1 1.
    """
    return max(_word_f1(normalized(text).split(), normalized(right).split()) for right in _accepted(accepted))


def _accepted(accepted: Sequence[str]) -> Sequence[str]:
    """Return the answers that are not empty after normalization; if none is left, the empty one: no answer."""
    return [answer for answer in accepted if normalized(answer)] or [""]


def _word_f1(answer: list[str], right: list[str]) -> float:
    if not answer or not right:
        return float(answer == right)
    common = sum((Counter(answer) & Counter(right)).values())
    return 2 * common / (len(answer) + len(right))
