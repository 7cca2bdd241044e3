"""Regressions: one row per text or pair, the numbers themselves."""

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
    """A model that answers with numbers; transformers has it as a classifier of one class."""

    kind = "regression"
    auto_class = AutoModelForSequenceClassification
    row = "sample"
    loss = SquaredDistance(relative=False)
    loss_unit = "squared output difference per sample"
    figures = (("correlation", "correlation"),)

    def exact_columns(self, columns: int) -> int:
        """One for each number."""
        return columns

    def targets(self, reader: TextReader, data: LabeledTexts, batches: Sequence[TokenBatch]) -> Targets | None:
        """Return the number of each text, float64."""
        if data.labels is None:
            return None
        rows = torch.tensor(numbers(data.labels, data.name), dtype=torch.float64)
        return Targets(self.kind, rows, torch.arange(len(data)))

    def quality(self, found: Outputs, targets: Targets) -> Quality:
        """Pearson's correlation; None where either side does not vary, or the model answers with several numbers."""
        if found.values.shape[1] != 1:
            return Quality(correlation=None)  # a label is one number, and nothing says which answer it belongs to
        answers, labels = found.values[:, 0].double().numpy(), targets.rows.numpy()
        if np.ptp(answers) == 0 or np.ptp(labels) == 0:
            return Quality(correlation=None)
        return Quality(correlation=float(np.corrcoef(answers, labels)[0, 1]))

    def label_names(self, data: LabeledTexts) -> list[str]:
        """Numbers have no names.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"kind {self.kind!r}: fine-tuning learns classes, tags or spans.")
