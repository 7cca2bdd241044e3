"""How texts are tokenized with the whole vocabulary and with part of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..data.cells import words as split_words
from ..data.texts import LabeledTexts
from ..errors import InputFileError
from ..models.loading import LoadedModel
from ..models.sentence_embeddings import with_prompt

READ_TOGETHER = 1024  # texts per call of the tokenizer


@dataclass(frozen=True, slots=True)
class Reading:
    """How held-out text is tokenized with the smaller vocabulary.

    Attributes:
        name: of the text.
        num_texts: number of texts.
        num_pieces: pieces of the texts in the whole vocabulary, without special tokens.
        num_dropped: how many of those were left out, so that their words split into others.
        texts_changed: texts with such a piece.
        num_pieces_after: pieces of the texts in the smaller vocabulary.
        unknown: pieces that stand for unknown characters, before and after.
    """

    name: str
    num_texts: int
    num_pieces: int
    num_dropped: int
    texts_changed: int
    num_pieces_after: int
    unknown: tuple[int, int]


def read_ids(loaded: LoadedModel, texts: Sequence[tuple[str, ...]]) -> Iterator[list[int]]:
    """Yield the ids of each text in full, without special tokens; the two parts of a pair are joined.

    Args:
        loaded: whose tokenizer reads.
        texts: one or two parts each.
    """
    in_words = loaded.head.kind == "tags"
    for start in range(0, len(texts), READ_TOGETHER):
        chunk = texts[start : start + READ_TOGETHER]
        parts = [part for text in chunk for part in with_prompt(loaded.tokenizer, text)]
        read = iter(
            loaded.tokenizer(
                [split_words(part) for part in parts] if in_words else parts,
                is_split_into_words=in_words, add_special_tokens=False, truncation=False, verbose=False,
            )["input_ids"]
        )  # fmt: skip
        for text in chunk:
            yield [index for _ in text for index in next(read)]


def check_reading(loaded: LoadedModel, trimmed: LoadedModel, texts: LabeledTexts, numbers: Mapping[int, int]) -> None:
    """Check that texts of kept pieces are tokenized as before.

    Args:
        loaded: the whole model.
        trimmed: the model with part of the vocabulary.
        texts: to read.
        numbers: the new id of each id that was kept.

    Raises:
        InputFileError: one is read differently; quotes it.
    """
    both = zip(read_ids(loaded, texts.texts), read_ids(trimmed, texts.texts), strict=True)
    for text, (before, after) in zip(texts.texts, both, strict=True):
        if all(index in numbers for index in before) and [numbers[index] for index in before] != after:
            raise InputFileError(
                f"{loaded.name}: its tokenizer reads {text[0][:60]!r} differently without other pieces. Keep its "
                "vocabulary."
            )


def reading_of(loaded: LoadedModel, trimmed: LoadedModel, texts: LabeledTexts, numbers: Mapping[int, int]) -> Reading:
    """Count how held-out text is tokenized before and after.

    Args:
        loaded: the whole model.
        trimmed: the model with part of the vocabulary.
        texts: held-out.
        numbers: the new id of each id that was kept.

    Raises:
        InputFileError: a text of kept pieces is read differently.
    """
    check_reading(loaded, trimmed, texts, numbers)
    before, after = list(read_ids(loaded, texts.texts)), list(read_ids(trimmed, texts.texts))
    dropped = [sum(index not in numbers for index in ids) for ids in before]
    return Reading(
        texts.name,
        len(texts),
        sum(map(len, before)),
        sum(dropped),
        sum(count > 0 for count in dropped),
        sum(map(len, after)),
        (_unknown(loaded, before), _unknown(trimmed, after)),
    )


def _unknown(loaded: LoadedModel, read: Sequence[Sequence[int]]) -> int:
    return sum(ids.count(loaded.tokenizer.unk_token_id) for ids in map(list, read))
