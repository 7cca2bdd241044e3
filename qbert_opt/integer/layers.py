"""The layers of an encoder block in integers: LayerNorm, attention, feed-forward."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .builder import Builder, Grid
from .nonlinearity import EXP_ONE, SCORE_TOP, Nonlinearity
from .operations import INT32, MASK, TOKENS, Axis, Relative, Requantize, Value

STREAM_BITS = 16
STREAM_TOP = 2 ** (STREAM_BITS - 1) - 1  # largest integer of the residual stream and of what is added to it
INVERSE_BITS = 30  # of the numerator of a LayerNorm's reciprocal
NORMED_BITS = 16  # of a normalized element, relative to the Euclidean length of its row
GAMMA_TOP = 2**14 - 1
BETA_LIMIT = 2.0**29
VALUE_TOP = 127


@dataclass(frozen=True, slots=True)
class Norm:
    """Constants of a LayerNorm.

    Attributes:
        gamma: gain, `[hidden]`.
        beta: offset, `[hidden]`.
        epsilon: what is added to the variance.
    """

    gamma: NDArray[np.float64]
    beta: NDArray[np.float64]
    epsilon: float


def add_layer_norm(builder: Builder, way: Nonlinearity, name: str, x: Value, norm: Norm) -> Value:
    """Normalize 16-bit numbers over the last axis (LayerNorm, arXiv 1607.06450).

    Deviations from the mean are shifted right before they are squared, so that the sum of squares fits 32 bits; for the
    square they saturate if they exceed half of the 16-bit range. A row of n deviations is divided by its Euclidean
    length, so that each is at most 1; the remaining factor sqrt(n) is part of gamma.

    Args:
        builder: builder of the program.
        way: method for the square root.
        name: name of the result.
        x: 16-bit numbers `[..., hidden]` with one scale.
        norm: the constants.

    Returns:
        Numbers of up to 32 bits with one scale, in the shape of x.
    """
    unit, size = float(builder.scale_of(x)), len(norm.gamma)
    total = builder.reduce("sum", f"{name}.sum", x)
    mean = builder.rescale(f"{name}.mean", total, 1 / size, Grid(unit, x.low, x.high))
    deviation = builder.binary("subtract", f"{name}.deviation", x, mean, scale=unit)
    reach = max(-x.low, x.high) + 1
    added = 1
    for shift in range(STREAM_BITS):
        added = max(1, round(norm.epsilon * size / (unit * 2**shift) ** 2))
        cap = math.isqrt(max(INT32 - added, 0) // size)
        if cap << shift >= reach:
            break
    short = builder.saturate(f"{name}.short", deviation, -cap, cap, shift)
    square = builder.binary("multiply", f"{name}.square", short, short)
    squares = builder.binary("add", f"{name}.squares", builder.reduce("sum", f"{name}.square_sum", square), added)
    root = way.square_root(builder, f"{name}.root", squares)
    inverse = builder.binary("divide", f"{name}.inverse", 1 << INVERSE_BITS, root)
    top = 2**NORMED_BITS - 1
    normed = builder.emit(
        Requantize, f"{name}.normed", x.shape, scale=2.0**-NORMED_BITS, bounds=(-top, top), a=deviation.name,
        multiplier=inverse.name, shift=INVERSE_BITS + shift - NORMED_BITS,
    )  # fmt: skip
    length = math.sqrt(size) * 2.0**-NORMED_BITS  # real number of one unit of `normed`
    largest = max(float(np.abs(norm.gamma).max()) / GAMMA_TOP, float(np.abs(norm.beta).max()) / length / BETA_LIMIT)
    gain = largest or 1.0
    scaled = builder.per_channel("multiply", f"{name}.scaled", normed, np.round(norm.gamma / gain), length * gain)
    return builder.per_channel("add", name, scaled, np.round(norm.beta / (length * gain)), length * gain)


def add_to_stream(builder: Builder, name: str, branch: Value, stream: Value, largest: float) -> Value:
    """Add a branch to the residual stream, on one 16-bit grid.

    Args:
        builder: builder of the program.
        name: name of the sum.
        branch: output of a linear layer.
        stream: the residual stream, already on the grid of `stream_grid(largest)`.
        largest: greatest magnitude of the sum.
    """
    grid = stream_grid(largest)
    part = builder.requantize(f"{name}.branch", branch, grid)
    wide = builder.binary("add", f"{name}.wide", part, stream, scale=grid.scale)
    return builder.saturate(name, wide, grid.low, grid.high)


def stream_grid(largest: float) -> Grid:
    """Return the 16-bit grid for numbers up to a magnitude.

    Args:
        largest: that magnitude.
    """
    return Grid.symmetric(largest, STREAM_BITS)


def probability_top(max_tokens: int) -> int:
    """Return the integer of probability 1: 15 bits, or fewer where a weighted sum of 8-bit values would overflow.

    Args:
        max_tokens: tokens of the longest sample.
    """
    top = EXP_ONE - 1
    while top * VALUE_TOP * max_tokens > INT32:
        top >>= 1
    return top


@dataclass(frozen=True, slots=True)
class Attention:
    """Constants of an attention layer.

    Attributes:
        heads: number of heads.
        largest_score: greatest magnitude of a score, including the bias of relative positions.
        bias: real bias of each distance, `[heads, 2 * max_tokens - 1]`; None without relative positions.
        top: the integer of probability 1.
    """

    heads: int
    largest_score: float
    bias: NDArray[np.float64] | None
    top: int


def add_attention(
    builder: Builder, way: Nonlinearity, name: str, query: Value, key: Value, value: Value, attention: Attention
) -> Value:
    """Weight 8-bit values by the softmax of scaled dot products (arXiv 1706.03762, equation 1).

    Args:
        builder: builder of the program.
        way: method for exp.
        name: prefix of the names of results.
        query: 8 bits, zero point 0, `[batch, tokens, hidden]`.
        key: likewise.
        value: likewise.
        attention: the constants.

    Returns:
        The context `[batch, tokens, hidden]` with one scale.
    """
    batch, tokens, hidden = query.shape
    width = int(hidden) // attention.heads
    heads = [
        builder.rearrange("split", f"{part.name}.heads", part, (batch, attention.heads, tokens, width))
        for part in (query, key, value)
    ]
    grid = way.score_grid(attention.largest_score)
    products = builder.matmul(f"{name}.products", heads[0], heads[1], transposed=True)
    ratio = float(builder.scale_of(products)) / math.sqrt(width) / grid.scale
    scores = builder.rescale(f"{name}.scores", products, ratio, grid)
    if attention.bias is not None:
        table = builder.constant(f"{name}.distances.table", np.round(attention.bias / grid.scale).astype(np.int32))
        shape: tuple[Axis, ...] = (attention.heads, TOKENS, TOKENS)
        bias = builder.emit(Relative, f"{name}.distances", shape, scale=grid.scale, table=table)
        scores = builder.binary("add", f"{name}.biased", scores, bias, scale=grid.scale)
    weights = add_softmax(builder, way, name, scores, attention.top)
    context = builder.matmul(f"{name}.weighted", weights, heads[2], transposed=False)
    return builder.rearrange("merge", f"{name}.context", context, (batch, tokens, hidden))


def add_softmax(builder: Builder, way: Nonlinearity, name: str, scores: Value, top: int) -> Value:
    """Return probabilities from 0 to `top` along the last axis, 0 at padding.

    Args:
        builder: builder of the program.
        way: method for exp.
        name: prefix of the names of results.
        scores: scores on the method's grid.
        top: the integer of probability 1.
    """
    real = builder.mask(f"{name}.real", scores, MASK, scores.low)
    greatest = builder.reduce("max", f"{name}.greatest", real)
    distance = builder.binary("subtract", f"{name}.distance", greatest, real, scale=scores.scale)
    below = builder.saturate(f"{name}.below", distance, 0, 2 * SCORE_TOP + 1)
    falling = way.exponential(builder, f"{name}.exp", below)
    kept = builder.mask(f"{name}.kept", falling, MASK, 0)
    total = builder.binary("maximum", f"{name}.total", builder.reduce("sum", f"{name}.exp_sum", kept), 1)
    numerator = builder.binary("multiply", f"{name}.numerator", kept, top)
    half = builder.shift(f"{name}.half", total, 1)
    centred = builder.binary("add", f"{name}.centred", numerator, half)
    share = builder.binary("divide", f"{name}.share", centred, total, scale=1 / top)
    return builder.saturate(f"{name}.probabilities", share, 0, top)
