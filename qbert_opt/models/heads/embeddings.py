"""Encoders without a head: one row per text, pooled from the last hidden states.

The model's folder determines the pooling, by default the mean over tokens, and a prompt that is put before every text;
see `sentence_embeddings`. The two texts of a pair are embedded separately.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoModel

from ...data.texts import LabeledTexts
from ...errors import UsageError
from ..labels import numbers
from ..samples import Outputs, Targets, TokenBatch
from ..sentence_embeddings import SentenceEmbedding, embedding_of, with_prompt
from .losses import SquaredDistance
from .protocol import HeadKind, Quality, Ranked, Sample, TextReader, whole_or_cut


class Embeddings(HeadKind):
    """An encoder without a head. Labels are the similarities of pairs; labels of single texts are ignored."""

    kind = "embeddings"
    ending = "Model"
    auto_class = AutoModel
    row = "sample"
    loss = SquaredDistance(relative=True)
    spare_weights = ("pooler",)
    loss_unit = "squared output distance relative to the output's squared length"
    retrieves = True
    figures = (
        ("cosine", "cosine [95 %]"),
        ("recall_at_1", "recall@1 [95 %]"),
        ("recall_at_5", "recall@5 [95 %]"),
        ("recall_at_10", "recall@10 [95 %]"),
        ("spearman", "Spearman [95 %]"),
    )

    def columns(self, config: Any) -> int:
        """Return the width of an embedding."""
        return int(getattr(config, "hidden_size", 0)) * len(_embedding(config).modes)

    def read(self, model: nn.Module, batch: TokenBatch) -> torch.Tensor:
        """Return the embeddings, `[B, columns]`."""
        return _embedding(getattr(model, "config", None)).read(model, batch)

    def samples(self, reader: TextReader, text: tuple[str, ...], index: int) -> list[Sample]:
        """Tokenize each text of a pair into a sample of its own, after the folder's prompt."""
        return [whole_or_cut(reader, (one,)) for one in with_prompt(reader.tokenizer, text)]

    def targets(self, reader: TextReader, data: LabeledTexts, batches: Sequence[TokenBatch]) -> Targets | None:
        """Return the labels of pairs as numbers, float64, one for both rows of a pair; None for single texts."""
        if data.labels is None or any(len(text) != 2 for text in data.texts):
            return None
        scores = numbers(data.labels, data.name, "The label of a pair of texts is its similarity")
        rows = torch.tensor(scores, dtype=torch.float64).repeat_interleave(2)
        return Targets(self.kind, rows, torch.arange(len(rows)))

    def quality(self, outputs: Outputs, targets: Targets) -> Quality:
        """Rank correlation between the cosine of each pair and its label, as in semantic textual similarity (STS)."""
        pairs = nn.functional.normalize(outputs.values.double(), dim=1).reshape(len(targets.rows) // 2, 2, -1)
        return Quality(spearman=Ranked(pairs.prod(1).sum(1).numpy(), targets.rows[::2].numpy()))

    def label_names(self, data: LabeledTexts) -> list[str]:
        """Embeddings have no names.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"kind {self.kind!r}: fine-tuning learns classes, tags or spans.")


def _embedding(config: Any) -> SentenceEmbedding:
    """Return the pooling of a model from its config; by default the mean over real tokens."""
    return embedding_of(config) or SentenceEmbedding()
