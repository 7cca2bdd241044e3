"""Correct answers of labelled texts, aligned with the rows of a model's outputs."""

from __future__ import annotations

from collections.abc import Sequence

from ..data.texts import LabeledTexts
from .batches import TokenBatch
from .loading import LoadedModel
from .samples import NONE, SpanWindow, Targets

__all__ = ["NONE", "SpanWindow", "Targets", "read_targets"]


def read_targets(loaded: LoadedModel, data: LabeledTexts, batches: Sequence[TokenBatch]) -> Targets | None:
    """Return the correct answers; None if the data has no labels, or labels do not apply to the kind of head.

    Args:
        loaded: the model.
        data: the texts.
        batches: the same texts, tokenized for this model.

    Raises:
        InputFileError: the model does not know a label, or a label does not suit the kind of head.
    """
    return loaded.head.spec.targets(loaded.reader, data, batches)
