"""The cache of a decoder: keys and values of every token so far, to which each new token attends.

Below 16 bits each head of each token has one fp16 scale for its keys and one for its values: symmetric codes without
offsets, rounded when the token arrives.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..errors import UsageError
from .profiles import ModelProfile

if TYPE_CHECKING:
    from .allocation import Allocation

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


def cache_bytes(profile: ModelProfile, tokens: int, bits: int, sequences: int = 1) -> int:
    """Return the bytes of a whole cache: 2 × layers × heads of keys × (head size × bits / 8 + scale) × tokens.

    A layer that sees only the last w tokens keeps that many of each sequence.

    Args:
        profile: a decoder.
        tokens: in the cache, over all sequences of a batch.
        bits: of one value.
        sequences: number in the batch, all of the same length.
    """
    heads = profile.key_value_heads or profile.heads
    layers = [matrix for matrix in profile.matrices if matrix.kind == "attention_output"]
    return sum(
        sequences
        * profile.seen(matrix.block, tokens // sequences)
        * max(1, matrix.uses)
        * layer_token_bytes(heads, matrix.columns // profile.heads, bits)
        for matrix in layers
    )


def check_decoding(plan: Allocation) -> None:
    """Check a plan's statements about its cache.

    Args:
        plan: as read from a file.

    Raises:
        ValueError: a cache of an encoder, a cost without it, another size than its context and bits give, a cache
            that does not hold the prompt, or another speed than the latency of a token gives.
    """
    decode = None if plan.device is None else plan.device.decode
    if (plan.cache is None) != (decode is None):
        raise ValueError("cache: a decoder's plan for a device has a cache and device.decode; any other has neither.")
    if plan.cache is None or decode is None or plan.device is None:
        return
    if not plan.profile.causal:
        raise ValueError("cache: the profile is of an encoder, which keeps none.")
    batch = plan.device.batch_size
    right = cache_bytes(plan.profile, batch * decode.context, plan.cache.bits, batch)
    if decode.cache_bytes != right:
        raise ValueError(
            f"device: decode: cache_bytes is {decode.cache_bytes}; {decode.context} tokens at {plan.cache.bits} bits "
            f"take {right}."
        )
    if decode.context < plan.device.seq_len:
        raise ValueError(
            f"device: decode: context is {decode.context}; the cache holds the prompt of {plan.device.seq_len} too."
        )
    if not math.isclose(decode.tokens_per_s * decode.token_s, 1, rel_tol=1e-6):
        raise ValueError(
            f"device: decode: tokens_per_s is {decode.tokens_per_s:g}; token_s gives {1 / decode.token_s:g}."
        )
    if (plan.cache.predicted_loss is None) != (plan.cache.std_error is None):
        raise ValueError("cache: predicted_loss and std_error: a scored cache has both, any other has neither.")


def parse_cache_bits(text: str) -> tuple[int, ...]:
    """Read widths of the cache such as `16,8`.

    Args:
        text: widths with commas between them.

    Raises:
        UsageError: one is not legal, or named twice.
    """
    parts = [part.strip() for part in text.split(",")]
    legal = {str(bits): bits for bits in CACHE_BITS}
    for number, part in enumerate(parts):
        if part not in legal or part in parts[:number]:
            raise UsageError(f"`cache_bits` {text}: legal: {', '.join(legal)}, each once.")
    return tuple(legal[part] for part in parts)


def check_cache_bits(bits: int) -> None:
    """Check a width of the cache.

    Args:
        bits: of one value.

    Raises:
        UsageError: names the legal widths.
    """
    if bits not in CACHE_BITS:
        raise UsageError(f"`cache_bits` {bits}: legal: {', '.join(map(str, CACHE_BITS))}.")
