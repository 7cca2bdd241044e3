"""Remove the rows of a model's tables whose pieces are never needed, and rewrite the tokenizer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from pydantic import Field

from ..checkpoint.reader import folder_bytes
from ..data.texts import LabeledTexts
from ..errors import InputFileError, UsageError
from ..models.loading import LoadedModel, load_model, tokenized
from ..models.outputs import collect
from ..models.pieces import (
    added_ids,
    essential_pieces,
    named_pieces,
    new_ids,
    read_tokenizer,
    vocabulary,
    with_parts,
)
from ..models.probe import example_texts, known_words
from ..models.samples import TokenBatch
from ..models.tiers import answers_in_words, in_tiers, numbered, tier_sizes
from ..models.trimming import pieces_of_config, write_trimmed
from ..runtime.files import atomic_folder, check_free
from ..runtime.frozen import Frozen
from .vocabulary_reading import Reading, check_reading, read_ids, reading_of

ROW_MAP = "row_map.json"
SCHEMA = "qbert-opt/row-map@1"
CHECKED_TEXTS = 32  # whose answers are compared
TOLERANCE = 1e-4  # of logits over the vocabulary: a product with fewer columns may sum in another order


class RowMap(Frozen):
    """Which rows of a model's tables a trimmed model has.

    Attributes:
        document_schema: kind and version of the document.
        model: name of the whole model.
        model_sha256: hash of its weights.
        model_rows: rows of its table.
        rows: the row of the whole model's table for each row, ascending in each tier.
        tiers: rows of each tier of the table; empty where it is whole.
    """

    document_schema: str = Field(default=SCHEMA, alias="schema")
    model: str
    model_sha256: str
    model_rows: int
    rows: tuple[int, ...]
    tiers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Trimmed:
    """A model folder with a smaller vocabulary.

    Attributes:
        folder: the folder.
        rows: rows of the table of words, before and after.
        used: number of pieces that texts and words use.
        weight_bytes: bytes of the weight files, before and after.
        reading: of held-out text; None without.
        tiers: rows of each tier of the table, and how often the texts read them; empty where the table is whole.
        num_pieces: pieces of all texts, those that were left out included.
        left_out: number of pieces that the smaller vocabulary lacks.
    """

    folder: Path
    rows: tuple[int, int]
    used: int
    weight_bytes: tuple[int, int]
    reading: Reading | None = None
    tiers: tuple[tuple[int, int], ...] = ()
    num_pieces: int = 0
    left_out: int = 0


def trim_vocabulary(
    loaded: LoadedModel,
    data: Sequence[LabeledTexts],
    output: str | Path,
    *,
    words: Sequence[str] = (),
    min_count: int = 1,
    tiers: Sequence[float] = (),
    test_data: LabeledTexts | None = None,
) -> Trimmed:
    """Write a model without the rows that given texts and words never use, with its word table in tiers if requested.

    Texts whose pieces are all kept are tokenized and answered exactly as before; words that lost their piece split into
    smaller ones. Special tokens stay, and so does whatever keeps a known character from becoming unknown; see
    `models.pieces`.

    Args:
        loaded: the model, from a folder.
        data: texts like those in deployment, as many as possible; labels are not needed.
        output: folder to write.
        words: to keep with all their pieces, whatever texts use; also pieces as the vocabulary writes them (`##ing`).
        min_count: how often the texts must use a piece for it to be kept; 0 keeps every piece.
        tiers: shares of the rows, most used ones first, that become tiers with bits of their own; the last tier is the
            rest. `(0.2,)` makes two tiers.
        test_data: held-out text, which does not select pieces, to count how often it is tokenized differently.

    Returns:
        The written folder.

    Raises:
        InputFileError: the tokenizer cannot be rewritten, a text or the list of words has no word of the vocabulary, a
            word has unknown characters, the answers depend on the ids of pieces, or the table is in tiers already.
        UsageError: neither texts nor words, all rows are needed, the table cannot be in these tiers, or the model is a
            decoder.
    """
    if loaded.head.kind == "next_tokens":
        raise UsageError(
            f"{loaded.name}: is a decoder, which may write any piece of its vocabulary; only encoders' are trimmed."
        )
    if not data and not words:
        raise UsageError("`data`, `words`: neither is given, so no piece would be kept. Give texts or words.")
    if min_count < 0:
        raise UsageError(f"`min_count` {min_count}: give at least 0.")
    if loaded.folder is None:
        raise InputFileError(f"{loaded.name}: has no folder. Save the model with its tokenizer first.")
    _check_tiers(loaded, data, tiers)
    target = Path(output)
    check_free(target)
    document = read_tokenizer(loaded.folder)
    known = vocabulary(document)
    pieces = {index: piece for piece, index in known.items()}
    if strange := sorted(set(loaded.tokenizer.get_vocab().items()) ^ set(known.items())):
        raise InputFileError(
            f"{loaded.name}: tokenizer and tokenizer.json differ in {strange[0][0]!r} ({len(strange)} such pieces). "
            "Open the tokenizer with transformers and save it again."
        )
    named = named_pieces(document) | pieces_of_config(loaded.model.config.to_dict(), document, loaded.name)
    named |= set(loaded.tokenizer.all_special_tokens)
    essential = named | essential_pieces(document)
    used = _used_by_words(loaded, words, known, essential)
    counts: Counter[int] = Counter()
    for texts in data:
        mine = Counter(index for read in read_ids(loaded, texts.texts) for index in read)
        if not {pieces[index] for index in mine} - essential:
            raise InputFileError(
                f"{texts.name}: uses no piece of {loaded.name}'s vocabulary beyond single characters. Give text in the "
                "model's language."
            )
        counts += mine
    used |= {pieces[index] for index, count in counts.items() if count >= min_count}
    kept = with_parts(document, essential | used if min_count else known)
    numbers = new_ids(known, kept)
    rows = loaded.model.get_input_embeddings().num_embeddings
    sizes = tier_sizes(tiers, len(numbers)) if tiers else ()
    if sizes:
        first = {known[piece] for piece in named}
        numbers = numbered(numbers, sizes, counts, first=first, last=added_ids(document))
    elif len(numbers) == rows:
        raise UsageError(f"{loaded.name}: texts and words need all {rows:,} rows, so none can be left out.")
    origin = RowMap(model=loaded.name, model_sha256=loaded.sha256, model_rows=rows, rows=tuple(numbers), tiers=sizes)
    with atomic_folder(target) as folder:
        write_trimmed(loaded, document, numbers, folder, sizes)
        (folder / ROW_MAP).write_text(json.dumps(origin.model_dump(by_alias=True)), encoding="utf-8")
        trimmed = replace(load_model(folder), name=str(target))
        _check_vocabulary(trimmed, {piece: numbers[known[piece]] for piece in kept})
        for texts in data:
            check_reading(loaded, trimmed, texts, numbers)
        _check_answers(loaded, trimmed, data, numbers)
        reading = None if test_data is None else reading_of(loaded, trimmed, test_data, numbers)
        stored = folder_bytes(loaded.folder), folder_bytes(folder)
    ordered = iter(numbers)
    reads = tuple((size, sum(counts[old] for old in islice(ordered, size))) for size in sizes)
    return Trimmed(
        target, (rows, len(numbers)), len(used), stored, reading, reads, counts.total(), len(known) - len(kept)
    )


def _check_tiers(loaded: LoadedModel, data: Sequence[LabeledTexts], tiers: Sequence[float]) -> None:
    """Check that a model's table is whole, and that it can be in tiers if that is asked.

    Raises:
        InputFileError: it is in tiers already.
        UsageError: there is no text that says how often rows are used, or an output layer reads all of them.
    """
    if in_tiers(loaded.model):
        raise InputFileError(
            f"{loaded.name}: its table of words is in tiers already. Give the model that it was made from, which "
            f"{ROW_MAP} names."
        )
    if tiers and not data:
        raise UsageError("`tiers`: rows are ranked by how often texts use them. Give texts.")
    if tiers and answers_in_words(loaded.model):
        raise UsageError(
            f"`tiers`: {loaded.name} answers in words, and its output layer reads all rows of their table at every "
            "token. Leave tiers out."
        )


def _used_by_words(
    loaded: LoadedModel, words: Sequence[str], known: Mapping[str, int], essential: Collection[str]
) -> set[str]:
    """Return the pieces of words, at the beginning of a text and behind a blank, and words that are pieces themselves.

    Raises:
        InputFileError: a word has unknown characters, or none has a piece beyond single characters.
    """
    if not words:
        return set()
    pieces = {index: piece for piece, index in known.items()}
    read = list(read_ids(loaded, [(word, f" {word}") for word in words]))
    unknown = loaded.tokenizer.unk_token_id
    foreign = [word for word, ids in zip(words, read, strict=True) if word not in known and unknown in ids]
    if foreign:
        raise InputFileError(
            f"`words`: {foreign[0]!r} ({len(foreign)} of {len(words)} words) has characters that {loaded.name}'s "
            "vocabulary does not know. Remove such words; they stay unknown."
        )
    used = {pieces[index] for ids in read for index in ids} | {word for word in words if word in known}
    if not used - set(essential):
        raise InputFileError(
            f"`words`: none of the {len(words)} words has a piece in {loaded.name}'s vocabulary beyond single "
            "characters. Give words of the model's language."
        )
    return used


def _check_vocabulary(trimmed: LoadedModel, wanted: Mapping[str, int]) -> None:
    """Check that transformers reads the written vocabulary as it was meant."""
    if trimmed.tokenizer.get_vocab() != wanted:
        raise InputFileError(
            f"{trimmed.name}: {type(trimmed.tokenizer).__name__} does not read a smaller vocabulary from its "
            "tokenizer.json. Save the model with a PreTrainedTokenizerFast first."
        )


def _check_answers(
    loaded: LoadedModel, trimmed: LoadedModel, data: Sequence[LabeledTexts], numbers: Mapping[int, int]
) -> None:
    """Check that the same pieces get the same answers, to the last bit where these are not over the vocabulary."""
    texts = example_texts(known_words(trimmed.tokenizer), loaded.head.kind)
    texts += [text for part in data for text in part.texts[:CHECKED_TEXTS]][:CHECKED_TEXTS]
    old = torch.full((max(numbers) + 1,), -1)
    old[list(numbers)] = torch.tensor(list(numbers.values()))
    for batch in tokenized(loaded, texts, batch_size=8):
        ids = batch.inputs["input_ids"]
        if any(int(index) not in numbers for index in ids.unique()):
            continue
        renumbered = TokenBatch(
            batch.inputs | {"input_ids": old[ids]}, tuple(range(len(ids))), batch.positions, None, batch.lost
        )
        before = collect(loaded.head, loaded.model, [replace(renumbered, inputs=batch.inputs)]).values
        after = collect(trimmed.head, trimmed.model, [renumbered]).values
        if loaded.head.kind == "vocabulary":
            before = before[:, list(numbers)]
            same = bool((before - after).abs().max() <= TOLERANCE * before.abs().max())
        else:
            same = torch.equal(before, after)
        if not same:
            raise InputFileError(
                f"{loaded.name}: answers differently when its pieces have other ids, so its vocabulary must stay."
            )
