"""How many tokens of a text a model reads."""

from __future__ import annotations

from typing import Any

# encoders that number positions from behind their padding index, as RoBERTa does (fairseq's convention)
OFFSET_FAMILIES = frozenset(
    {
        "camembert", "data2vec-text", "esm", "ibert", "lilt", "longformer", "luke", "markuplm", "mluke", "mpnet",
        "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
    }
)  # fmt: skip
MPNET_PADDING = 1  # whatever its config says
EARLIER_MAX_TOKENS = 128  # where texts were cut before the model's own window counted
WITHOUT_POSITIONS = 1 << 14  # where neither config nor tokenizer names a window


def position_limit(config: Any) -> int | None:
    """Return the most tokens that a model has positions for; None where its config names none.

    Args:
        config: of a transformers model.

    Returns:
        `max_position_embeddings`, less the positions up to the padding index in families such as RoBERTa's.
    """
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:  # relative positions without a limit say -1
        return None
    if config.model_type not in OFFSET_FAMILIES:
        return positions
    padding = MPNET_PADDING if config.model_type == "mpnet" else config.pad_token_id
    return positions - 1 - int(padding or 0)


def model_window(tokenizer: Any, config: Any) -> int:
    """Return the longest sample in tokens that a model reads: its positions and its tokenizer's limit, where sane.

    Args:
        tokenizer: the model's; a limit that is no sane length (`VERY_LARGE_INTEGER`) does not count.
        config: the model's.
    """
    limit = position_limit(config)
    most = WITHOUT_POSITIONS if limit is None else limit
    stated = tokenizer.model_max_length
    return int(min(stated, most)) if stated > 0 else most


def longest_sample(tokenizer: Any, default: int | None, max_tokens: int | None = None) -> int:
    """Return the tokens at which a text is cut.

    Args:
        tokenizer: the model's; its `model_max_length` is the model's window, see `model_window`.
        default: what the kind of head takes by default; None is the window.
        max_tokens: what the user limit for.
    """
    limit = max_tokens or default
    window = int(tokenizer.model_max_length)
    return window if limit is None else min(limit, window)
