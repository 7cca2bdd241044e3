"""Token classification: one row per word, logits over tags at its first sub-word.

Words beyond the model's window have no row; they count as outside any entity, and reports state how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForTokenClassification

from ...data.cells import words as split_words
from ...data.texts import LabeledTexts
from ...errors import InputFileError
from ..labels import label_reading, sorted_names
from ..samples import Outputs, Targets, TokenBatch
from .losses import KL
from .protocol import HeadKind, Quality, Ratio, Sample, TextReader, check_texts, right_rows, whole_or_cut

OUTSIDE = "O"


class Tags(HeadKind):
    """Token classification of words separated by blanks."""

    kind = "tags"
    ending = "ForTokenClassification"
    auto_class = AutoModelForTokenClassification
    row = "word"
    loss = KL()
    loss_unit = "nats of KL(reference || quantized) per word"
    positions = True
    named = True
    trainable = True
    lost_unit = "words"
    # words are tokenized one by one, which byte-level tokenizers do only with a blank before each
    tokenizer_options = MappingProxyType({"add_prefix_space": True})
    figures = (("entity_f1", "entity F1 [95 %]"), ("accuracy", "words [95 %]"))

    def samples(self, reader: TextReader, text: tuple[str, ...], index: int) -> list[Sample]:
        """Tokenize the words of one text; truncation is counted in words."""
        check_texts(self.kind, text, index, 1, "one text")
        words = split_words(text[0])
        cut = whole_or_cut(reader, (words,), is_split_into_words=True)  # type: ignore[arg-type]
        firsts = first_tokens(cut.encoded)
        lost = len(words) - sum(firsts) if cut.lost else 0
        return [Sample(cut.encoded, firsts, lost)]

    def targets(self, reader: TextReader, data: LabeledTexts, batches: Sequence[TokenBatch]) -> Targets | None:
        """Return the tag of each word that is read."""
        if data.labels is None or reader.given:
            return None
        given = tag_lists(data)
        whole = given if data.whole_labels is None else [split_words(label) for label in data.whole_labels]
        reading = label_reading(reader.names, whole, source=data.name, model=reader.name, what="tag")
        rows: list[int] = []
        words, tags = [], []
        for index, (text, mine) in enumerate(zip(data.texts, given, strict=True)):
            [sample] = self.samples(reader, text, index)
            ids: list[int | None] = sample.encoded.word_ids(0)  # type: ignore[attr-defined]
            kept = tuple(
                word for word, first in zip(ids, sample.positions or (), strict=True) if first and word is not None
            )
            rows += [reading[mine[word]] for word in kept]
            words.append(kept)
            tags.append(tuple(reader.names[reading[tag]] for tag in mine))
        counts = torch.tensor([len(kept) for kept in words])
        samples = torch.arange(len(data)).repeat_interleave(counts)
        rights = torch.tensor(rows, dtype=torch.int64)
        return Targets(self.kind, rights, samples, names=reader.names, words=tuple(words), tags=tuple(tags))

    def quality(self, outputs: Outputs, targets: Targets) -> Quality:
        """Accuracy over words, and F1 over entities with their types."""
        counts = entity_counts(tags_of(outputs, targets), targets.tags)
        f1 = Ratio(2 * counts[:, 0], counts[:, 1] + counts[:, 2])
        return Quality(accuracy=right_rows(outputs, targets), entity_f1=f1)

    def label_names(self, data: LabeledTexts) -> list[str]:
        """Return the tags that occur."""
        return sorted_names(tag for tags in tag_lists(data) for tag in tags)


def first_tokens(encoded: Any) -> list[bool]:
    """Mark the first sub-word of each word, `[T]`.

    Args:
        encoded: the tokenizer's outputs for one text.
    """
    words = encoded.word_ids(0)
    return [word is not None and (i == 0 or words[i - 1] != word) for i, word in enumerate(words)]


def tag_lists(data: LabeledTexts) -> list[list[str]]:
    """Return the tags of each text.

    Args:
        data: labels are tags separated by blanks.

    Raises:
        InputFileError: the number of tags differs from the number of words.
    """
    tag_rows = []
    for row, (text, label) in enumerate(zip(data.texts, data.labels or (), strict=True)):
        words, tags = split_words(text[0]), split_words(label)
        if len(words) != len(tags):
            raise InputFileError(
                f"{data.name}: sample {row + 1} has {len(words)} words and {len(tags)} tags ({label[:40]!r}). "
                "Give one tag for each word; `label_column` names the column."
            )
        tag_rows.append(tags)
    return tag_rows


def tags_of(outputs: Outputs, targets: Targets) -> list[list[str]]:
    """Return the predicted tags of all words of each sample; truncated words are outside any entity.

    Args:
        outputs: one row for each word that was not truncated.
        targets: the words of each sample.
    """
    answers = outputs.values.argmax(-1).tolist()
    position = 0
    tags = []
    for words, right in zip(targets.words, targets.tags, strict=True):
        sample = [OUTSIDE] * len(right)
        for word in words:
            sample[word] = targets.names[answers[position]]
            position += 1
        tags.append(sample)
    return tags


def entity_counts(predicted: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """Return `[samples, 3]`: correctly predicted entities, predicted entities, true entities.

    Entities are read from the tags as in `seqeval` (the CoNLL script's rules: an I- without its B- starts one).

    Args:
        predicted: predicted tags of each sample.
        right: true tags of each sample, of the same lengths.
    """
    from seqeval.metrics.sequence_labeling import get_entities

    counts = np.zeros((len(predicted), 3))
    for row, (tags, correct) in enumerate(zip(predicted, right, strict=True)):
        ours, theirs = set(get_entities(list(tags))), set(get_entities(list(correct)))
        counts[row] = len(ours & theirs), len(ours), len(theirs)
    return counts
