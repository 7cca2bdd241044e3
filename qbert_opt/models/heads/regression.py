"""Regression: one row per text or pair, with the predicted numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from ...data.texts import LabeledTexts
from ...errors import UsageError
from ..labels import numbers
from ..samples import Outputs, Targets, TokenBatch
from .losses import SquaredDistance
from .protocol import HeadKind, Quality, TextReader


class Regression(HeadKind):
    """Regression; in transformers, a classifier of one class."""

    kind = "regression"
    auto_class = AutoModelForSequenceClassification
    row = "sample"
    loss = SquaredDistance(relative=False)
    loss_unit = "squared output difference per sample"
    figures = (("correlation", "correlation"),)

    def exact_columns(self, columns: int) -> int:
        """One for each output."""
        return columns

    def targets(self, reader: TextReader, data: LabeledTexts, batches: Sequence[TokenBatch]) -> Targets | None:
        """Return the label of each text as a number, float64."""
        if data.labels is None:
            return None
        rows = torch.tensor(numbers(data.labels, data.name), dtype=torch.float64)
        return Targets(self.kind, rows, torch.arange(len(data)))

    def quality(self, outputs: Outputs, targets: Targets) -> Quality:
        """Pearson correlation; None if outputs or labels are constant, or the model has several outputs."""
        if outputs.values.shape[1] != 1:
            return Quality(correlation=None)  # a label is one number, and nothing says which output it belongs to
        answers, labels = outputs.values[:, 0].double().numpy(), targets.rows.numpy()
        if np.ptp(answers) == 0 or np.ptp(labels) == 0:
            return Quality(correlation=None)
        return Quality(correlation=float(np.corrcoef(answers, labels)[0, 1]))

    def label_names(self, data: LabeledTexts) -> list[str]:
        """Regression outputs have no names.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"kind {self.kind!r}: fine-tuning learns classes, tags or spans.")
