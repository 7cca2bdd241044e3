"""The right answers of labelled texts, beside the rows that a model answers with."""

from __future__ import annotations

from collections.abc import Sequence

from ..data.texts import LabeledTexts
from .batches import TokenBatch
from .loading import LoadedModel
from .samples import NONE, SpanWindow, Targets

__all__ = ["NONE", "SpanWindow", "Targets", "read_targets"]


def read_targets(loaded: LoadedModel, data: LabeledTexts, batches: Sequence[TokenBatch]) -> Targets | None:
    """Return the right answers, or None where the data has none or the outputs have no right and wrong.

    Args:
        loaded: the model.
        data: the texts.
        batches: the same texts, tokenized for this model.

    Raises:
        InputFileError: labels that the model does not know, or that are not of its kind.
    """
    return loaded.head.spec.targets(loaded.reader, data, batches)
