"""Answers as people read them, and how the field compares them: entities of tags, texts of spans."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ..models.outputs import Outputs
from ..models.targets import SpanText, Targets

LONGEST_ANSWER = 30  # tokens, as in BERT's SQuAD script
_PUNCTUATION = frozenset(string.punctuation)


def tags_of(found: Outputs, targets: Targets) -> list[list[str]]:
    """Return the tags of all words of each sample; a word that was cut away is outside of every entity."""
    answers = found.values.argmax(-1).tolist()
    position = 0
    tags = []
    for words, right in zip(targets.words, targets.tags, strict=True):
        sample = ["O"] * len(right)
        for word in words:
            sample[word] = targets.names[answers[position]]
            position += 1
        tags.append(sample)
    return tags


def entity_counts(found: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """Return `[samples, 3]`: entities that agree in place and type, entities found, entities there are.

    Entities are read from the tags as `seqeval` does (the CoNLL script's rules: an I- without its B- starts one).
    """
    from seqeval.metrics.sequence_labeling import get_entities

    counts = np.zeros((len(found), 3))
    for row, (tags, wanted) in enumerate(zip(found, right, strict=True)):
        ours, theirs = set(get_entities(list(tags))), set(get_entities(list(wanted)))
        counts[row] = len(ours & theirs), len(ours), len(theirs)
    return counts


def spans_of(found: Outputs, texts: Sequence[SpanText]) -> list[str]:
    """Return the answer of each sample: the piece of text whose start and end have the largest sum of logits.

    The end is not before the start, and at most `LONGEST_ANSWER` tokens long.
    """
    answers = []
    for sample, (start, end) in zip(texts, found.values.double().unflatten(0, (-1, 2)), strict=True):
        both = (start[:, None] + end[None, :]).triu().tril(LONGEST_ANSWER - 1)
        allowed = torch.ones_like(both, dtype=torch.bool).triu().tril(LONGEST_ANSWER - 1)
        best = int(both.masked_fill(~allowed, -torch.inf).argmax())
        first, last = divmod(best, both.shape[1])
        answers.append(sample.text[sample.offsets[first][0] : sample.offsets[last][1]])
    return answers


def normalized(text: str) -> str:
    """Lower-case words without punctuation and articles, as SQuAD's official script compares them."""
    lower = "".join(letter for letter in text.lower() if letter not in _PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", lower).split())


def exact_match(text: str, accepted: Sequence[str]) -> bool:
    """Tell whether an answer is one of the accepted ones after normalization."""
    return any(normalized(text) == normalized(right) for right in accepted)


def answer_f1(text: str, accepted: Sequence[str]) -> float:
    """Best F1 of the words of an answer and of an accepted one after normalization."""
    return max((_word_f1(normalized(text).split(), normalized(right).split()) for right in accepted), default=0.0)


def _word_f1(found: list[str], right: list[str]) -> float:
    common = sum((Counter(found) & Counter(right)).values())
    return 2 * common / (len(found) + len(right)) if common else 0.0
