"""`check_texts.json`: a few of the plan's scoring texts as token ids, for checking exports of the folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from pydantic import Field, model_validator

from ..models.batches import single_samples
from ..models.samples import TokenBatch
from ..runtime.files import read_document, write_text
from ..runtime.frozen import Frozen

SCHEMA = "qbert-opt/check-texts@1"
CHECK_TEXTS = "check_texts.json"
MASK = "attention_mask"


class CheckTexts(Frozen):
    """Samples without padding.

    Attributes:
        data: name of their data set.
        inputs: for each of the model's inputs, the values for each token of each sample, without padding.
        positions: for each token of each sample, whether it has a label; None if labels belong to samples.
    """

    document_schema: str = Field(default=SCHEMA, alias="schema")
    data: str
    inputs: dict[str, tuple[tuple[int, ...], ...]]
    positions: tuple[tuple[bool, ...], ...] | None = None

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        lengths = {tuple(map(len, samples)) for samples in self.inputs.values()}
        if self.positions is not None:
            lengths.add(tuple(map(len, self.positions)))
        if len(lengths) != 1 or not lengths.copy().pop() or 0 in lengths.copy().pop():
            raise ValueError("inputs: every input has numbers for every token of the same samples.")
        if min(min(sample) for samples in self.inputs.values() for sample in samples) < 0:
            raise ValueError("inputs: token ids are at least 0.")
        return self

    def samples(self) -> list[TokenBatch]:
        """Return batches of one sample."""
        batches = []
        for index in range(len(next(iter(self.inputs.values())))):
            inputs = {name: torch.tensor([samples[index]]) for name, samples in self.inputs.items()}
            inputs[MASK] = torch.ones_like(next(iter(inputs.values())))
            where = None if self.positions is None else torch.tensor([self.positions[index]])
            batches.append(TokenBatch(inputs, (index,), where))
        return batches


def check_texts_of(batches: Sequence[TokenBatch], data: str) -> CheckTexts:
    """Return the samples of batches, in order of their indices.

    Args:
        batches: tokenized texts.
        data: name of the data set.
    """
    singles = sorted(single_samples(batches), key=lambda single: single.indices)
    names = [name for name in singles[0].inputs if name != MASK]
    inputs = {name: tuple(tuple(single.inputs[name][0].tolist()) for single in singles) for name in names}
    positions = None
    if singles[0].positions is not None:
        positions = tuple(tuple(single.labelled[0].tolist()) for single in singles)
    return CheckTexts(data=data, inputs=inputs, positions=positions)


def write_check_texts(texts: CheckTexts, folder: Path) -> None:
    """Write `check_texts.json`.

    Args:
        texts: to keep.
        folder: the quantized folder.
    """
    write_text(folder / CHECK_TEXTS, texts.model_dump_json(by_alias=True) + "\n")


def read_check_texts(folder: Path) -> CheckTexts | None:
    """Read `check_texts.json`.

    Args:
        folder: the quantized folder.

    Returns:
        None if the folder has none: written by an earlier release, or from a plain module.

    Raises:
        InputFileError: malformed.
    """
    path = folder / CHECK_TEXTS
    return read_document(path, CheckTexts, SCHEMA) if path.exists() else None
