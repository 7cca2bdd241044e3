"""Texts and labels for recovery training."""

from __future__ import annotations

from collections.abc import Sequence

from ..data.texts import LabeledTexts, split_disjoint
from ..errors import InputFileError, UsageError
from ..models.batches import TokenBatch
from ..models.loading import LoadedModel
from ..models.outputs import SOFTMAX_KINDS
from ..models.targets import Targets, read_targets
from ..training.objective import needs_labels
from ..training.settings import RecoverySettings

MOST_HELD = 512  # texts are held out where the user names no number,
HELD_SHARE = 1 / 8  # and no larger share of all texts


def split_texts(data: Sequence[LabeledTexts], settings: RecoverySettings) -> tuple[LabeledTexts, LabeledTexts]:
    """Split the texts into held-out and training texts, without duplicates; labels are kept if a loss needs them.

    Args:
        data: what the user gave.
        settings: how many are held out, the seed, and the losses.

    Raises:
        InputFileError: there are too few texts, or labels are missing.
        UsageError: there is no data, or as many texts are to be held out as there are.
    """
    if not data:
        raise UsageError("`data`: no texts. Give at least one file of training text.")
    needed = needs_labels(settings.losses)
    for part in data:
        if needed and part.labels is None:
            raise InputFileError(f"{part.name}: has no labels, and loss {needed[0]} needs them. Add a label column.")
    samples: dict[tuple[str, ...], str] = {}
    for part in data:
        for text, label in zip(part.texts, part.labels if needed and part.labels else [""] * len(part), strict=True):
            samples.setdefault(text, label)
    name = " and ".join(part.name for part in data)
    if len(samples) < 2:
        raise InputFileError(
            f"{name}: {len(samples)} distinct text; training needs one to hold out and one to train on."
        )
    whole = LabeledTexts(name, tuple(samples), tuple(samples.values()) if needed else None)
    count = settings.held_back or max(1, min(MOST_HELD, int(HELD_SHARE * len(samples))))
    if count >= len(samples):
        raise UsageError(
            f"`held_back` {count}: {name} has {len(samples)} distinct texts, and one must be left to train on. "
            f"Legal: 1 to {len(samples) - 1}."
        )
    held, rest = split_disjoint(whole, [count, len(samples) - count], seed=settings.seed)
    return held, rest


def labels_of(
    loaded: LoadedModel, texts: LabeledTexts, batches: Sequence[TokenBatch], settings: RecoverySettings
) -> Targets | None:
    """Return the correct answers of the training text if a loss needs them.

    Args:
        loaded: the model.
        texts: the training text.
        batches: the same texts, tokenized.
        settings: its losses.

    Raises:
        InputFileError: a label is unknown to the head, or all labels are the same.
        UsageError: the losses do not suit the head.
    """
    needed = needs_labels(settings.losses)
    if not needed:
        return None
    targets = read_targets(loaded, texts, batches) if loaded.head.kind in SOFTMAX_KINDS else None
    if targets is None:
        raise UsageError(f"`losses`: {needed[0]} does not apply to a model whose outputs are {loaded.head.kind}.")
    names = loaded.head.spec.label_names(texts) if loaded.head.spec.trainable else ()
    if len(names) == 1:
        raise InputFileError(
            f"{texts.name}: every label is {names[0]!r}, and loss {needed[0]} would teach the model to "
            "answer with nothing else. Give texts of several labels."
        )
    return targets
