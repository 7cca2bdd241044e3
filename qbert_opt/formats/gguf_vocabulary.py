"""A decoder's vocabulary as llama.cpp stores it: byte-level pieces (`gpt2`), or SentencePiece's (`llama`).

**Byte-level BPE.** llama.cpp's rules for splitting texts into words are part of its program and have names. We write
the name of the rule that equals the one in the model's tokenizer, and refuse a tokenizer whose rule has no name.
llama.cpp does not normalize text: NFC, which Qwen's tokenizer applies, does not change text that is in this form
already, as nearly all text is.

**SentencePiece.** llama.cpp joins the pair whose piece has the highest score, transformers the pair that comes first in
a list of merges, which was made from the scores. Pieces get the scores 0, -1, -2 … in the order of their merges. The
order is then the same if the list contains every split of a piece into two others, and all splits of a piece are
adjacent; both are checked.

Sources: llama-vocab.cpp of llama.cpp (`llm_tokenizer_bpe`, `llm_tokenizer_spm`); types of tokens in llama.h. In
addition, `export` compares the tokens of both on real texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import UsageError
from .token_ids import tokenizer_document, tokens_by_id

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # U+2581, SentencePiece's
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # llama_token_type
_REMEDY = "Open the quantized folder with transformers' from_pretrained."
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = ("ByteLevel", False)  # byte-level step after another step has split the text
_SPLITS = {
    (("ByteLevel", True),): "gpt-2",
    (("Digits", True), ("ByteLevel", True)): "smollm",
    (("Split", _WORDS % "{1,3}"), _BYTES): "llama-bpe",
    (("Split", _WORDS % ""), _BYTES): "qwen2",
}
_KEEPS_WHOLE = ("llama-bpe",)  # does not split a word that is a piece: `ignore_merges`
_NEVER = -1e9  # score of a piece that no merge makes


def decoder_vocabulary(tokenizer: Any, target: str, rows: int) -> dict[str, Any]:
    """Return a decoder's tokenizer as metadata of a GGUF file.

    Args:
        tokenizer: a transformers tokenizer.
        target: what the model is converted for, for messages.
        rows: rows of the model's table, which is the number of tokens in the file; a row without a token gets a name.

    Raises:
        UsageError: llama.cpp would tokenize texts differently (the message says how), or a token has no row.
    """
    document = tokenizer_document(tokenizer)
    model = document.get("model") or {}
    if model.get("type") != "BPE":
        raise _otherwise(target, f"it is {model.get('type') or type(tokenizer).__name__}, not BPE")
    by_id = tokens_by_id(tokenizer, target, rows)
    merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]
    try:
        own = (
            _sentence_pieces(document, by_id, merges, rows) if model.get("byte_fallback") else _bytes(document, merges)
        )
        ends = _ends(tokenizer)
    except _Differs as difference:
        raise _otherwise(target, str(difference)) from None
    added = {item["id"]: item["special"] for item in document.get("added_tokens", ())}
    unknown = tokenizer.unk_token_id if model.get("byte_fallback") else None  # byte-level pieces spell every text
    types = [_type(index, by_id, added, unknown) for index in range(rows)]
    metadata: dict[str, Any] = {
        "tokenizer.ggml.tokens": [by_id.get(index, f"[unused-{index}]") for index in range(rows)],
        "tokenizer.ggml.token_type": types,
        **own,
        **ends,
        "tokenizer.ggml.bos_token_id": tokenizer.bos_token_id,
        "tokenizer.ggml.eos_token_id": tokenizer.eos_token_id,
        "tokenizer.ggml.unknown_token_id": tokenizer.unk_token_id,
        "tokenizer.ggml.padding_token_id": tokenizer.pad_token_id,
        "tokenizer.chat_template": tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None,
    }
    return {key: value for key, value in metadata.items() if value is not None}


class _Differs(Exception):
    """Says how llama.cpp would tokenize texts differently."""


def _otherwise(target: str, reason: str) -> UsageError:
    return UsageError(f"{target}: splits texts differently from the model's tokenizer: {reason}. {_REMEDY}")


def _bytes(document: dict[str, Any], merges: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    """Return the metadata of a byte-level tokenizer."""
    normalizer = document.get("normalizer") or {}
    if normalizer.get("type") not in (None, "NFC"):
        raise _Differs(f"it normalizes texts by {normalizer['type']}")
    steps = _steps(document.get("pre_tokenizer"))
    split = _SPLITS.get(steps)
    if split is None:
        raise _Differs(f"it splits words by {' and '.join(name for name, _ in steps) or 'nothing'} in a way of its own")
    model = document["model"]
    if bool(model.get("ignore_merges")) != (split in _KEEPS_WHOLE):
        raise _Differs(f"its pieces are {'' if model.get('ignore_merges') else 'not '}taken whole")
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise _Differs("its pieces are marked where words begin or end")
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": split,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
    }


def _steps(stated: dict[str, Any] | None) -> tuple[tuple[str, Any], ...]:
    """Return the steps that split words, each with its parameters; a step of an unusual form has None."""
    parts = (stated or {}).get("pretokenizers", [stated] if stated else [])
    steps = []
    for part in parts:
        kind, says = part["type"], None
        if kind == "Split" and part.get("behavior") == "Isolated" and not part.get("invert"):
            says = part["pattern"].get("Regex")
        elif kind == "Digits":
            says = part["individual_digits"]
        elif kind == "ByteLevel" and not part.get("add_prefix_space"):
            says = part.get("use_regex", True)
        steps.append((kind, says))
    return tuple(steps)


def _sentence_pieces(
    document: dict[str, Any], by_id: dict[int, str], merges: Sequence[tuple[str, ...]], rows: int
) -> dict[str, Any]:
    """Return the metadata of a SentencePiece tokenizer."""
    ranks: dict[str, list[int]] = {}
    for rank, pair in enumerate(merges):
        ranks.setdefault("".join(pair), []).append(rank)
    if any(found[-1] - found[0] >= len(found) for found in ranks.values()):
        raise _Differs("its merges are not grouped by the piece that they make")
    pieces, pairs = set(by_id.values()), set(merges)
    for piece in ranks:
        splits = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        if any(left in pieces and right in pieces and (left, right) not in pairs for left, right in splits):
            raise _Differs(f"its merges do not contain every split of the piece {piece!r}")
    order = {piece: -float(place) for place, piece in enumerate(ranks)}
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": [order.get(by_id.get(index, ""), _NEVER) for index in range(rows)],
        "tokenizer.ggml.add_space_prefix": _space_first(document),
    }


def _space_first(document: dict[str, Any]) -> bool:
    """Whether a text gets a space before its first word."""
    normalizer, before = document.get("normalizer") or {}, document.get("pre_tokenizer") or {}
    steps = normalizer.get("normalizers", [normalizer] if normalizer else [])
    replaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    kinds = [step["type"] for step in steps]
    if before.get("type") == "Metaspace" and not kinds and before.get("replacement") == SPACE:
        if before.get("split"):
            raise _Differs("it splits texts at spaces first")
        return before.get("prepend_scheme") in ("always", "first")
    splits = before and not (before.get("type") == "Split" and before.get("pattern") == {"String": " "})
    if splits or replaces not in steps or set(kinds) - {"Prepend", "Replace"} or len(kinds) > 2:
        raise _Differs("it prepares texts in a way of its own")
    return "Prepend" in kinds


def _ends(tokenizer: Any) -> dict[str, bool]:
    """Which tokens are put around a text."""
    ids = list(tokenizer("")["input_ids"])
    first = bool(ids) and ids[0] == tokenizer.bos_token_id
    last = len(ids) > first and ids[-1] == tokenizer.eos_token_id
    if len(ids) != first + last:
        raise _Differs("it puts tokens of its own around a text")
    return {"tokenizer.ggml.add_bos_token": first, "tokenizer.ggml.add_eos_token": last}


def _type(index: int, by_id: dict[int, str], added: dict[int, bool], unknown: int | None) -> int:
    token = by_id.get(index)
    if token is None:
        return UNUSED
    if index == unknown:
        return UNKNOWN
    if index in added:
        return CONTROL if added[index] else USER_DEFINED
    return BYTE if len(token) == 6 and token.startswith("<0x") and token.endswith(">") else NORMAL
