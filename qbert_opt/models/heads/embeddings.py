"""Encoders without a head: one row per text or pair, pooled from the last hidden states.

The model's folder determines the pooling, by default the mean over tokens; see `sentence_embeddings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoModel

from ...data.texts import LabeledTexts
from ...errors import UsageError
from ..samples import Outputs, Targets, TokenBatch
from ..sentence_embeddings import SentenceEmbedding, embedding_of
from .losses import SquaredDistance
from .protocol import HeadKind, Quality, TextReader


class Embeddings(HeadKind):
    """An encoder without a head. Labels are ignored."""

    kind = "embeddings"
    ending = "Model"
    auto_class = AutoModel
    row = "sample"
    loss = SquaredDistance(relative=True)
    spare_weights = ("pooler",)
    loss_unit = "squared output distance relative to the output's squared length"

    def columns(self, config: Any) -> int:
        """Return the width of an embedding."""
        return int(getattr(config, "hidden_size", 0)) * len(_embedding(config).modes)

    def read(self, model: nn.Module, batch: TokenBatch) -> torch.Tensor:
        """Return the embeddings, `[B, columns]`."""
        return _embedding(getattr(model, "config", None)).read(model, batch)

    def targets(self, reader: TextReader, data: LabeledTexts, batches: Sequence[TokenBatch]) -> Targets | None:
        """Return None: embeddings have no correct answers."""
        return None

    def quality(self, outputs: Outputs, targets: Targets) -> Quality:
        """Return no figures: embeddings are compared with a reference only."""
        return Quality()

    def label_names(self, data: LabeledTexts) -> list[str]:
        """Embeddings have no names.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"kind {self.kind!r}: fine-tuning learns classes, tags or spans.")


def _embedding(config: Any) -> SentenceEmbedding:
    """Return the pooling of a model from its config; by default the mean over real tokens."""
    return embedding_of(config) or SentenceEmbedding()
