"""A WordPiece vocabulary as llama.cpp stores it.

llama.cpp's `bert` tokenizer always lower-cases, strips accents, splits Chinese characters and punctuation, and puts
[CLS] and [SEP] around the text (llama-vocab.cpp, `llm_tokenizer_wpm`). A tokenizer that works differently is refused,
because the model would read other tokens.
"""

from __future__ import annotations

from typing import Any

from ..errors import UsageError
from .token_ids import tokenizer_document, tokens_by_id

CONTINUED = "##"
WORD_START = "\N{LOWER ONE EIGHTH BLOCK}"  # U+2581, as in llama.cpp's vocabularies
_NORMAL, _CONTROL = 1, 3  # token types of llama.cpp
_REMEDY = "Use `engine` onnxruntime or openvino."


def vocabulary(tokenizer: Any, target: str, rows: int) -> dict[str, Any]:
    """Return a tokenizer as metadata of a GGUF file.

    Args:
        tokenizer: a transformers tokenizer.
        target: what the model is converted for, for messages.
        rows: rows of the model's table, which is the number of tokens in the file; a row without a token gets a name.

    Raises:
        UsageError: llama.cpp would tokenize texts differently (the message says how), or a token has no row.
    """
    document = tokenizer_document(tokenizer)
    reason = _difference(document, tokenizer)
    if reason is not None:
        raise UsageError(f"{target}: splits texts differently from the model's tokenizer: {reason}. {_REMEDY}")
    special = {tokenizer.convert_tokens_to_ids(token) for token in tokenizer.all_special_tokens}
    by_id = tokens_by_id(tokenizer, target, rows)
    tokens = [_spelled(by_id.get(index, f"[unused-{index}]"), index in special) for index in range(rows)]
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [_CONTROL if index in special else _NORMAL for index in range(rows)],
        "tokenizer.ggml.bos_token_id": tokenizer.cls_token_id,
        "tokenizer.ggml.eos_token_id": tokenizer.sep_token_id,
        "tokenizer.ggml.seperator_token_id": tokenizer.sep_token_id,  # the format's own spelling
        "tokenizer.ggml.unknown_token_id": tokenizer.unk_token_id,
        "tokenizer.ggml.padding_token_id": tokenizer.pad_token_id,
        "tokenizer.ggml.mask_token_id": tokenizer.mask_token_id,
    }
    return {key: value for key, value in metadata.items() if value is not None}


def _difference(document: dict[str, Any], tokenizer: Any) -> str | None:
    """Return how the model's tokenizer differs from llama.cpp's; None if it does not."""
    model = document.get("model") or {}
    if model.get("type") != "WordPiece":
        return f"it is {model.get('type') or type(tokenizer).__name__}, not WordPiece"
    if model.get("continuing_subword_prefix") != CONTINUED:
        return f"its continued words start with {model.get('continuing_subword_prefix')!r}, not {CONTINUED!r}"
    normalizer = document.get("normalizer") or {}
    if normalizer.get("type") != "BertNormalizer":
        return f"it normalizes texts by {normalizer.get('type') or 'nothing'}, not by BertNormalizer"
    if not normalizer.get("lowercase"):
        return "it distinguishes upper and lower case"
    if normalizer.get("strip_accents") is False:
        return "it keeps accents"
    if not normalizer.get("handle_chinese_chars"):
        return "it does not split Chinese characters"
    if (document.get("pre_tokenizer") or {}).get("type") != "BertPreTokenizer":
        return "it splits words in another way"
    start, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    if start is None or end is None or list(tokenizer("")["input_ids"]) != [start, end]:
        return "it does not put [CLS] and [SEP] around a text"
    return None


def _spelled(token: str, special: bool) -> str:
    if special or (token.startswith("[") and token.endswith("]")):
        return token
    return token.removeprefix(CONTINUED) if token.startswith(CONTINUED) else WORD_START + token
