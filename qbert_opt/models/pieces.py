"""Remove pieces from a tokenizer's vocabulary such that every text without them is tokenized as before.

A *piece* is an entry of the vocabulary in `tokenizer.json`. Each algorithm has pieces that must stay:

WordPiece   takes the longest piece that the rest of a word begins with. Every single character stays, at the beginning
            of a word (`a`) and inside it (`##a`), so there is always such a piece.
BPE         joins neighbouring pieces by a list of merges, in the order of the list. Pieces that no merge makes (bytes
            or characters) stay, and with each kept piece the parts that merges make it from. A text of kept pieces is
            merged as before, because all merges that it uses are left, in the same order.
Unigram     takes the pieces with the largest sum of log-probabilities. Every single character, the byte pieces and the
            piece with the lowest log-probability stay; the latter sets the price of an unknown character. The best
            split of a text into kept pieces still exists, and competes with fewer others.

So known characters stay known and unknown ones unknown, provided that each known character has a piece of its own.
Other vocabularies are refused, and so is WordLevel, in which a word that is removed has no parts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ..errors import InputFileError
from .folder_files import first_line, read_json

TOKENIZER = "tokenizer.json"
LAW = "Pieces can be left out of WordPiece, BPE and Unigram vocabularies"
Document = Mapping[str, Any]


def read_tokenizer(folder: Path) -> dict[str, Any]:
    """Return the content of a folder's `tokenizer.json`, whose pieces can be left out.

    Args:
        folder: a model's folder.

    Raises:
        InputFileError: the file is missing or not a tokenizer, or its algorithm does not allow leaving pieces out.
    """
    path = folder / TOKENIZER
    if not path.exists():
        raise InputFileError(
            f"{folder}: has no {TOKENIZER}, so its vocabulary cannot be rewritten. Save a fast tokenizer beside the "
            "model."
        )
    document = read_json(path)
    try:
        Tokenizer.from_file(str(path))
    except Exception as wrong:  # a bare Exception is what the library raises
        raise InputFileError(f"{path}: is not a tokenizer: {first_line(wrong)}. Save the tokenizer again.") from None
    kind = document["model"].get("type")
    if kind not in _ESSENTIAL:
        remedy = "in this one, a word that is left out would be unknown" if kind == "WordLevel" else "save it as one"
        raise InputFileError(f"{path}: its vocabulary is of type {kind!r}. {LAW}; {remedy}.")
    ids = set(vocabulary(document).values())
    if lost := [container[key] for container, key in _id_places(document) if container[key] not in ids]:
        raise InputFileError(f"{path}: names the id {lost[0]}, which no piece has. Save the tokenizer again.")
    faults = _characters_without_piece(document)
    if fault := next(faults, None):
        piece, character = fault
        raise InputFileError(
            f"{path}: the character {character!r} of the piece {piece!r} has no piece of its own, so that words with "
            f"it would become unknown. {LAW} in which every character has one."
        )
    return document


def vocabulary(document: Document) -> dict[str, int]:
    """Return every piece with its id, added tokens included.

    Args:
        document: content of a `tokenizer.json`.
    """
    entries = document["model"]["vocab"]
    known = dict(entries) if isinstance(entries, dict) else {piece: index for index, (piece, _) in enumerate(entries)}
    return known | {token["content"]: token["id"] for token in document.get("added_tokens", ())}


def essential_pieces(document: Document) -> frozenset[str]:
    """Return the pieces that always stay: added and template tokens, and pieces that any text may need.

    Args:
        document: as `read_tokenizer` returns it.
    """
    model = document["model"]
    return named_pieces(document) | (set(_ESSENTIAL[model["type"]](model)) & vocabulary(document).keys())


def named_pieces(document: Document) -> frozenset[str]:
    """Return the pieces that a tokenizer names by id: added tokens, and tokens that its template puts around texts.

    Args:
        document: as `read_tokenizer` returns it.
    """
    pieces = {index: piece for piece, index in vocabulary(document).items()}
    return frozenset(pieces[container[key]] for container, key in _id_places(document))


def added_ids(document: Document) -> frozenset[int]:
    """Return the ids of added tokens outside the algorithm's vocabulary, which are numbered behind it.

    Args:
        document: as `read_tokenizer` returns it.
    """
    known = vocabulary({"model": document["model"]})
    return frozenset(token["id"] for token in document.get("added_tokens", ()) if token["content"] not in known)


def with_parts(document: Document, pieces: Iterable[str]) -> frozenset[str]:
    """Return pieces and, for BPE, all parts that merges make them from.

    Args:
        document: as `read_tokenizer` returns it.
        pieces: pieces of its vocabulary.
    """
    parts: dict[str, set[str]] = {}
    for left, right, whole in _merges(document["model"]):
        parts.setdefault(whole, set()).update((left, right))
    found: set[str] = set()
    waiting = list(pieces)
    while waiting:
        piece = waiting.pop()
        if piece not in found:
            found.add(piece)
            waiting += parts.get(piece, ())
    return frozenset(found)


def without_others(document: Document, numbers: Mapping[int, int]) -> dict[str, Any]:
    """Return the tokenizer with only some pieces, renumbered.

    Args:
        document: as `read_tokenizer` returns it.
        numbers: new id of each id that is kept; it must include essential pieces and parts.
    """
    result = copy.deepcopy(dict(document))
    model = result["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {piece: numbers[index] for piece, index in model["vocab"].items() if index in numbers}
    else:  # a list, whose order is the ids
        known = range(len(model["vocab"]))
        model["vocab"] = [model["vocab"][old] for old in sorted(numbers.keys() & known, key=numbers.__getitem__)]
    if "merges" in model:
        kept = {piece for piece, index in vocabulary(document).items() if index in numbers}
        triples = zip(model["merges"], _merges(document["model"]), strict=True)
        model["merges"] = [merge for merge, triple in triples if set(triple) <= kept]
    for container, key in list(_id_places(result)):
        container[key] = numbers[container[key]]
    return result


def new_ids(known: Mapping[str, int], kept: Iterable[str]) -> dict[int, int]:
    """Return the new id of each id that is kept: its rank among them.

    Args:
        known: every piece with its id.
        kept: the pieces that are kept.
    """
    return {old: new for new, old in enumerate(sorted({known[piece] for piece in kept}))}


def _essential_of_wordpiece(model: Document) -> Iterator[str]:
    prefix = model["continuing_subword_prefix"]
    yield model["unk_token"]
    for piece in model["vocab"]:
        if len(piece) == 1 or (piece.startswith(prefix) and len(piece) == len(prefix) + 1):
            yield piece


def _essential_of_bpe(model: Document) -> Iterator[str]:
    made = {whole for _, _, whole in _merges(model)}
    yield from (piece for piece in model["vocab"] if piece not in made)


def _essential_of_unigram(model: Document) -> Iterator[str]:
    entries = model["vocab"]
    yield min(entries, key=lambda entry: float(entry[1]))[0]
    yield from (piece for piece, _ in entries if len(piece) == 1 or (model.get("byte_fallback") and _is_byte(piece)))


_ESSENTIAL: dict[str, Callable[[Document], Iterable[str]]] = {
    "WordPiece": _essential_of_wordpiece,
    "BPE": _essential_of_bpe,
    "Unigram": _essential_of_unigram,
}


def _is_byte(piece: str) -> bool:
    return len(piece) == len("<0x00>") and piece.startswith("<0x") and piece.endswith(">")


def _merges(model: Document) -> Iterator[tuple[str, str, str]]:
    """Yield left part, right part and result of each merge, in order."""
    skipped = len(model.get("continuing_subword_prefix") or "")  # of the right part, which continues a word
    for merge in model.get("merges", ()):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        yield left, right, left + right[skipped:]


def _characters_without_piece(document: Document) -> Iterator[tuple[str, str]]:
    """Yield pieces with a character that is no piece where it stands: first in a word, or inside it."""
    model = document["model"]
    if model["type"] == "BPE":  # starts from single characters, so a character that is not a piece is unknown
        return
    prefix = model.get("continuing_subword_prefix") or ""
    known = vocabulary(document)
    passed = essential_pieces(document)
    for piece in known:
        if piece in passed:
            continue
        inside = bool(prefix) and piece.startswith(prefix)
        for place, character in enumerate(piece.removeprefix(prefix) if inside else piece):
            single = f"{prefix}{character}" if inside or place else character
            if single not in known:
                yield piece, character


def _id_places(document: Document) -> Iterator[tuple[Any, Any]]:
    """Yield where a tokenizer names pieces by id: containers and the key or index of an id in each."""
    model, padding = document["model"], document.get("padding")
    yield from ((token, "id") for token in document.get("added_tokens", ()))
    if model.get("unk_id") is not None:
        yield model, "unk_id"
    if padding is not None:
        yield padding, "pad_id"
    waiting = [document.get("post_processor")]
    while waiting:
        processor = waiting.pop() or {}
        waiting += processor.get("processors", ())  # of a Sequence
        yield from ((processor[name], 1) for name in ("sep", "cls") if name in processor)  # [token, id], as in RoBERTa
        specials = processor.get("special_tokens")
        for token in specials.values() if isinstance(specials, dict) else ():  # of TemplateProcessing
            yield from ((token["ids"], place) for place in range(len(token["ids"])))
