"""Encoders without a head: one row per text or pair, the mean of the last hidden states over its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoModel

from ...data.texts import LabeledTexts
from ...errors import UsageError
from ..samples import Outputs, Targets, TokenBatch
from .losses import SquaredDistance
from .protocol import HeadKind, Quality, TextReader


class Embeddings(HeadKind):
    """An encoder alone. Labels mean nothing to it."""

    kind = "embeddings"
    ending = "Model"
    auto_class = AutoModel
    row = "sample"
    loss = SquaredDistance(relative=True)
    spare_weights = ("pooler",)
    loss_unit = "squared output distance relative to the output's squared length"

    def columns(self, config: Any) -> int:
        """Return the width of the hidden states."""
        return int(getattr(config, "hidden_size", 0))

    def read(self, model: nn.Module, batch: TokenBatch) -> torch.Tensor:
        """Return the mean over real tokens, `[B, columns]`."""
        states: torch.Tensor = model(**batch.inputs).last_hidden_state
        weights = batch.mask[:, :, None].to(states)
        return (states * weights).sum(1) / weights.sum(1)

    def targets(self, reader: TextReader, data: LabeledTexts, batches: Sequence[TokenBatch]) -> Targets | None:
        """There is no right and wrong."""
        return None

    def quality(self, found: Outputs, targets: Targets) -> Quality:
        """There is no right and wrong."""
        return Quality()

    def label_names(self, data: LabeledTexts) -> list[str]:
        """Embeddings have no names.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"kind {self.kind!r}: fine-tuning learns classes, tags or spans.")
