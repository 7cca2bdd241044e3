"""Outputs of a model and of its reference on the same texts."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..data.cells import words
from ..data.texts import LabeledTexts
from ..errors import InputFileError
from ..models.labels import check_same_meaning, output_order
from ..models.loading import LoadedModel
from .evaluate import outputs


def comparable(loaded: LoadedModel, reference: LoadedModel) -> tuple[LoadedModel, LoadedModel]:
    """Return a model and its reference with the same truncation length, the shorter one of the two.

    Args:
        loaded: the model.
        reference: what it is compared with.

    Raises:
        InputFileError: they have different kinds of outputs, or labels that cannot be matched.
    """
    if loaded.head.kind != reference.head.kind:
        raise InputFileError(
            f"{loaded.name}: answers with {loaded.head.kind}, its reference {reference.name} with "
            f"{reference.head.kind}. Give a reference of the same kind."
        )
    if loaded.labels is not None and reference.labels is not None:
        output_order(loaded.labels, reference.labels, loaded.name, reference.name)
    shorter = min(loaded.longest, reference.longest)
    return replace(loaded, max_tokens=shorter), replace(reference, max_tokens=shorter)


def reference_outputs(reference: LoadedModel, loaded: LoadedModel, data: LabeledTexts) -> torch.Tensor:
    """Return the outputs of a reference, with columns matched by name to those of another model.

    Args:
        reference: the reference model.
        loaded: the model to compare with it; both as returned by `comparable`.
        data: the texts.

    Returns:
        Float32 `[rows, columns]`.

    Raises:
        InputFileError: the names of their outputs differ, or the data's labels mean other classes to one.
    """
    values = outputs(reference, data)
    if loaded.labels is None or reference.labels is None:
        return values
    if data.labels is not None and loaded.labels != reference.labels:
        every = data.labels if data.whole_labels is None else data.whole_labels
        split = [words(label) if loaded.head.kind == "tags" else [label] for label in every]
        check_same_meaning(split, (loaded.name, loaded.labels), (reference.name, reference.labels), data.name)
    return values[:, output_order(loaded.labels, reference.labels, loaded.name, reference.name)]
