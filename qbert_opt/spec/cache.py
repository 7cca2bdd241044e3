"""The cache of a decoder: keys and values of every token so far, which each new token attends to.

Below 16 bits each head of each token has one fp16 scale for its keys and one for its values: symmetric codes without
offsets, rounded as a token comes.
"""

from __future__ import annotations

from ..errors import UsageError
from .profiles import ModelProfile

CACHE_BITS = (16, 8, 4)
"""Bits of a key or value in the cache; 16 keeps fp16 as it is."""
SCALE_BYTES = 2


def layer_token_bytes(heads: int, head_size: int, bits: int) -> int:
    """Return the bytes of one token's keys and values in one layer.

    Args:
        heads: heads of keys and values.
        head_size: values of one head.
        bits: of one value.
    """
    return 2 * heads * (-(-head_size * bits // 8) + (SCALE_BYTES if bits < 16 else 0))


def cache_bytes(profile: ModelProfile, tokens: int, bits: int) -> int:
    """Return the bytes of a whole cache: 2 × layers × heads of keys × (head size × bits / 8 + scale) × tokens.

    Args:
        profile: a decoder.
        tokens: in the cache, over all sequences of a batch.
        bits: of one value.
    """
    heads = profile.key_value_heads or profile.heads
    layers = [matrix for matrix in profile.matrices if matrix.kind == "attention_output"]
    return tokens * sum(
        max(1, matrix.uses) * layer_token_bytes(heads, matrix.columns // profile.heads, bits) for matrix in layers
    )


def check_cache_bits(bits: int) -> None:
    """Check a width of the cache.

    Args:
        bits: of one value.

    Raises:
        UsageError: names the legal widths.
    """
    if bits not in CACHE_BITS:
        raise UsageError(f"`cache_bits` {bits}: legal: {', '.join(map(str, CACHE_BITS))}.")
