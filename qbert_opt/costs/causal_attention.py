"""Attention of a decoder: over the tokens of a prompt, or of one new token over a cache of keys and values.

Each token attends to itself and the tokens before it. Kernels that skip masked keys compute (n + 1) / 2 keys per token
on average over a prompt of n tokens; the price assumes such kernels. A layer with a window of w tokens attends to and
caches the last w only: on average w - w (w - 1) / 2n keys per token of a prompt longer than w. Query heads that share
keys and values (grouped-query attention, Ainslie et al. 2023) are rows of one product, so a step reads the cache once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hwmodels import Operation, StoredWeight

from ..spec.cache import layer_token_bytes

if TYPE_CHECKING:
    from .operations import GraphBuilder


def causal_attention(builder: GraphBuilder, prefix: str, query: str, key: str, value: str, width: int) -> str:
    """Add the new tokens' keys and values to the cache, then scores, softmax and weighted sum.

    Args:
        builder: builder of the graph that the operations are added to.
        prefix: prefix of the operations' names.
        query: name of the query tensor.
        key: name of the key tensor.
        value: name of the value tensor.
        width: width of all query heads together.

    Returns:
        Name of the weighted sum of values.
    """
    workload, profile = builder.workload, builder.profile
    heads = profile.key_value_heads or profile.heads
    size = max(1, width // profile.heads)
    cache = _append(builder, f"{prefix}.cache", (key, value), heads, size)
    copies, rows = workload.batch_size * heads, workload.seq_len * (profile.heads // heads)
    stored = _cached(builder, heads, size) if workload.phase == "decode" else None
    keys = _prompt_keys(builder) if stored is None else profile.seen(builder.block, workload.context or 1)
    side, square = copies * rows * size, copies * rows * keys
    # quantized keys and values are dequantized element by element; fp16 is read as it is
    expanded = copies * keys * size if stored is not None and workload.cache_bits < 16 else 0
    read = 0 if stored is not None else copies * workload.seq_len * size
    arithmetic = builder.attention_arithmetic()

    def product(name: str, k: int, n: int, elements: tuple[int, int], *inputs: str) -> str:
        op = Operation(
            f"{prefix}.{name}", "matmul", rows, k, n, *elements, batch=copies, weight=stored, repeats=builder.repeats,
            arithmetic=arithmetic, extra_elements=expanded,
        )  # fmt: skip
        return builder.add(op, *dict.fromkeys(inputs))

    seen = (cache,) if stored is not None else (key, cache)
    scores = product("scores", size, keys, (side + read, square), query, *seen)
    softmax = Operation(
        f"{prefix}.softmax", "softmax", rows, 1, keys, square, square, batch=copies, repeats=builder.repeats
    )
    weights = builder.add(replace(softmax, **builder.function_fields("softmax", keys)), scores)
    seen = (cache,) if stored is not None else (value,)
    return product("context", keys, size, (square + read, side), weights, *seen)


def _prompt_keys(builder: GraphBuilder) -> int:
    """Return the average number of keys that a prompt token attends to: all earlier ones, or those in its window."""
    tokens = builder.workload.seq_len
    window = builder.profile.seen(builder.block, tokens)
    if window == tokens:
        return tokens // 2 + 1
    return max(1, round(window - window * (window - 1) / (2 * tokens)))


def _append(builder: GraphBuilder, name: str, made: tuple[str, str], heads: int, size: int) -> str:
    """Add the operation that copies new keys and values into the cache, which is allocated for its full length."""
    workload = builder.workload
    kept = builder.profile.seen(builder.block, workload.context or workload.seq_len)
    rows = workload.batch_size * kept * builder.repeats  # for all layers that this block stands for
    bits = workload.cache_bits
    state = StoredWeight(bits, "none", 0, 0, rows * layer_token_bytes(heads, size, bits), 0)
    op = Operation(
        name, "append", workload.tokens, rows, 2 * heads * size, workload.tokens * 2 * heads * size, 0,
        weight=state, repeats=builder.repeats,
    )  # fmt: skip
    return builder.add(op, *dict.fromkeys(made))


def _cached(builder: GraphBuilder, heads: int, size: int) -> StoredWeight:
    """The keys, or the values, of one layer's cache."""
    workload = builder.workload
    kept = builder.profile.seen(builder.block, workload.context or 1)
    rows, bits = workload.batch_size * kept, workload.cache_bits
    half = rows * layer_token_bytes(heads, size, bits) // 2
    return StoredWeight(bits, "none", 0, 0, half, 0, stored_elsewhere=True)
