"""The longest text, in tokens, that a model reads."""

from __future__ import annotations

from typing import Any

# encoders whose positions start after the padding index, as in RoBERTa (fairseq's convention)
OFFSET_FAMILIES = frozenset(
    {
        "camembert", "data2vec-text", "esm", "ibert", "lilt", "longformer", "luke", "markuplm", "mluke", "mpnet",
        "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
    }
)  # fmt: skip
MPNET_PADDING = 1  # hard-coded in transformers; the config is ignored
EARLIER_MAX_TOKENS = 128  # truncation length of earlier releases
WITHOUT_POSITIONS = 1 << 14  # if neither config nor tokenizer gives a limit


def position_limit(config: Any, *, causal: bool = False) -> int | None:
    """Return the largest number of tokens that a model has positions for; None if its config has no limit.

    Args:
        config: of a transformers model; None for a plain module.
        causal: whether the model is a decoder. If some of its layers see only a window of the last tokens, the limit is
            the length of the window, so that every token of a text sees all earlier ones.

    Returns:
        `max_position_embeddings`, minus the positions up to the padding index for models like RoBERTa.
    """
    limits = [_num_positions(config), _attention_window(config) if causal else None]
    return min((limit for limit in limits if limit is not None), default=None)


def layer_windows(config: Any, layers: int) -> tuple[int, ...]:
    """Return how many tokens each layer of a decoder sees, 0 meaning all; () if every layer sees all.

    Args:
        config: of a transformers model; None for a plain module.
        layers: number of layers.
    """
    size = _attention_window(config)
    if size is None:
        return ()
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * layers
    return tuple(size if kind == "sliding_attention" else 0 for kind in kinds) if len(kinds) == layers else ()


def context_limit(config: Any) -> int | None:
    """Return the most tokens that a decoder's cache can cover, if windows limit its texts to fewer; None otherwise.

    Args:
        config: of a transformers model; None for a plain module.
    """
    positions = _num_positions(config)
    return positions if positions != position_limit(config, causal=True) else None


def _attention_window(config: Any) -> int | None:
    """Return how many tokens a layer with sliding-window attention sees; None without such layers."""
    size, layers = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    return None if size is None or (layers and "sliding_attention" not in layers) else int(size)


def _num_positions(config: Any) -> int | None:
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:  # -1: relative positions without a limit
        return None
    model_type = getattr(config, "model_type", "")
    if model_type not in OFFSET_FAMILIES:
        return positions
    padding = MPNET_PADDING if model_type == "mpnet" else config.pad_token_id
    return positions - 1 - int(padding or 0)


def model_window(tokenizer: Any, config: Any, *, causal: bool = False) -> int:
    """Return the longest sample that a model reads, in tokens: the smaller of its positions and its tokenizer's limit.

    Args:
        tokenizer: of the model; a placeholder limit (`VERY_LARGE_INTEGER`) is ignored.
        config: of the model.
        causal: whether it is a decoder.
    """
    limit = position_limit(config, causal=causal)
    most = WITHOUT_POSITIONS if limit is None else limit
    stated = tokenizer.model_max_length
    return int(min(stated, most)) if stated > 0 else most


def longest_sample(tokenizer: Any, default: int | None, max_tokens: int | None = None) -> int:
    """Return the length in tokens at which texts are truncated, at most the model's window.

    Args:
        tokenizer: of the model; its `model_max_length` is the model's window, see `model_window`.
        default: default length of the kind of head; None is the window.
        max_tokens: length that replaces the default, if given.
    """
    limit = max_tokens or default
    window = int(tokenizer.model_max_length)
    return window if limit is None else min(limit, window)
