"""Classifiers: one row per text or pair, logits over classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification

from ...data.texts import LabeledTexts
from ...errors import InputFileError
from ..labels import label_ids, sorted_names
from ..samples import OutputKind, Outputs, Targets, TokenBatch
from .losses import KL
from .protocol import HeadKind, Quality, TextReader, right_rows


class Classes(HeadKind):
    """Classification of texts."""

    kind = "classes"
    ending = "ForSequenceClassification"
    auto_class = AutoModelForSequenceClassification
    row = "sample"
    loss = KL()
    loss_unit = "nats of KL(reference || quantized) per sample"
    classifies = True
    named = True
    trainable = True
    figures = (("accuracy", "accuracy [95 %]"), ("macro_f1", "F1"))

    def by_config(self, config: Any) -> OutputKind:
        """Return `regression` for one label or that problem type, since transformers uses one class for both."""
        return "regression" if config.num_labels == 1 or config.problem_type == "regression" else self.kind

    def check(self, config: Any, name: str) -> None:
        """Refuse multi-label classification."""
        if config.problem_type == "multi_label_classification":
            raise InputFileError(f"{name}: multi-label classification is not supported.")

    def exact_columns(self, columns: int) -> int:
        """One less than the number of classes, because probabilities sum to 1."""
        return columns - 1

    def targets(self, reader: TextReader, data: LabeledTexts, batches: Sequence[TokenBatch]) -> Targets | None:
        """Return the class of each text."""
        if data.labels is None:
            return None
        ids = label_ids(reader.names, data.labels, whole=data.whole_labels, source=data.name, model=reader.name)
        return Targets(self.kind, torch.tensor(ids), torch.arange(len(data)), names=reader.names)

    def quality(self, outputs: Outputs, targets: Targets) -> Quality:
        """Accuracy and macro F1."""
        answers = outputs.values.argmax(-1).numpy()
        return Quality(accuracy=right_rows(outputs, targets), macro_f1=macro_f1(answers, targets.rows.numpy()))

    def label_names(self, data: LabeledTexts) -> list[str]:
        """Return the labels that occur."""
        return sorted_names(data.labels or ())


def macro_f1(answers: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Return the unweighted mean F1 over the classes that occur in answers or labels.

    Args:
        answers: predicted classes, `[N]`.
        labels: correct classes, `[N]`.
    """
    scores = []
    for index in np.union1d(answers, labels):
        hits = int(((answers == index) & (labels == index)).sum())
        scores.append(2 * hits / (int((answers == index).sum()) + int((labels == index).sum())))
    return float(np.mean(scores))
