"""Answers compared as SQuAD's official script compares them."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = frozenset(string.punctuation)


def normalized(text: str) -> str:
    """Return lower-case words without punctuation and articles.

    Args:
        text: an answer.
    """
    lower = "".join(letter for letter in text.lower() if letter not in _PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", lower).split())


def exact_match(text: str, accepted: Sequence[str]) -> bool:
    """Tell whether an answer is one of the accepted ones after normalization.

    Args:
        text: the answer; empty for none.
        accepted: right answers; without any, none is right.
    """
    return normalized(text) in map(normalized, _accepted(accepted))


def answer_f1(text: str, accepted: Sequence[str]) -> float:
    """Return the best F1 of the words of an answer and of an accepted one after normalization.

    Args:
        text: the answer; empty for none.
        accepted: right answers; without any, none is right and has F1 1.
    """
    return max(_word_f1(normalized(text).split(), normalized(right).split()) for right in _accepted(accepted))


def _accepted(accepted: Sequence[str]) -> Sequence[str]:
    """Answers of which something is left, or the empty one, which is none."""
    return [answer for answer in accepted if normalized(answer)] or [""]


def _word_f1(found: list[str], right: list[str]) -> float:
    if not found or not right:
        return float(found == right)
    common = sum((Counter(found) & Counter(right)).values())
    return 2 * common / (len(found) + len(right))
