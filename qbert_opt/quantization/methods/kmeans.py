"""Lookup table per group: k-means weighted by input energy (Q-BERT's tables; SqueezeLLM, 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...spec.choices import Layout
from ...spec.forms import Form
from ..codebooks import round_to_codebook, search_codebook
from ..quantized_matrix import QuantizedMatrix

NEEDS_GRAM = True
GRADIENT_SHARE = 0.0
FORMS: tuple[Form, ...] = ("codebook",)


def quantize(
    weight: torch.Tensor, layouts: Sequence[Layout], gram: torch.Tensor | None = None
) -> list[QuantizedMatrix]:
    """Quantize one matrix under each layout, minimizing `Σ energy · ΔW²` in each group.

    Args:
        weight: float32 `[rows, columns]`.
        layouts: what to produce.
        gram: float32 `[columns, columns]`, mean over real tokens of `x xᵀ` for inputs x; only its diagonal is used.

    Raises:
        ValueError: `gram` is missing or has the wrong shape.
    """
    columns = weight.shape[1]
    if gram is None or gram.shape != (columns, columns):
        raise ValueError(f"kmeans needs the input second moments [{columns}, {columns}]")
    energy = gram.diagonal()
    return [round_to_codebook(weight, layout, search_codebook(weight, layout, energy)) for layout in layouts]
