"""Model sizes as the papers report them. Never used for budgets, because the papers do not count what a file stores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class EncoderConfig(Protocol):
    """The fields of a `BertConfig` that determine an encoder's size."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_labels: int


def size_without_embeddings_mib(config: EncoderConfig, bits: int | Sequence[int], *, num_groups: int = 128) -> float:
    """Return Q-BERT's column "Size w/o-e" (Shen et al. 2020, tables 1 and 2), which it calls MB and means MiB.

    All encoder parameters count at the layer's bits, biases and LayerNorm too. Below 32 bits, each group of the six
    matrices adds two fp32 range ends, and an fp32 output layer is added. This reproduces every row of the tables.

    Args:
        config: shapes of the encoder.
        bits: one width for all layers, or one per layer.
        num_groups: groups per matrix.

    Raises:
        ValueError: the number of widths is not that of the layers.
    """
    hidden, wide, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    widths = [bits] * layers if isinstance(bits, int) else list(bits)
    if len(widths) != layers:
        raise ValueError(f"{len(widths)} bit widths for {layers} layers")
    matrices = 4 * hidden * hidden + 2 * hidden * wide
    biases = 4 * hidden + wide + hidden
    norms = 4 * hidden
    size_bytes = sum(width * (matrices + biases + norms) for width in widths) / 8
    if any(width < 32 for width in widths):
        size_bytes += 6 * layers * num_groups * 2 * 4 + 4 * config.num_labels * (hidden + 1)
    return size_bytes / 2**20
