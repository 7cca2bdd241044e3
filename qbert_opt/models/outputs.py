"""Model outputs in one form for every kind of head: rows of numbers, one row per labelled position.

classes      one row per sample: logits over classes (one text or a pair)
tags         one row per word: logits over tags at its first sub-word
spans        two rows per window, start and end: logits over its positions and [CLS]
vocabulary   one row per masked token: logits over the vocabulary
next_tokens  one row per predicted token: logits over the vocabulary
regression   one row per sample: the numbers themselves
embeddings   one row per sample: pooled last hidden states

Code that is specific to one kind is in `heads/`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .heads import KINDS, kind_of
from .heads.protocol import HeadKind
from .samples import IMPOSSIBLE, OutputKind, Outputs, TokenBatch

__all__ = [
    "IMPOSSIBLE", "LOSS_UNITS", "POSITION_KINDS", "SOFTMAX_KINDS", "Head", "OutputKind", "Outputs", "answers",
    "collect", "head_kind", "head_of", "join", "of_rows", "rows", "rows_per_sample",
]  # fmt: skip

SOFTMAX_KINDS: tuple[OutputKind, ...] = tuple(kind for kind, spec in KINDS.items() if spec.loss.softmax)
POSITION_KINDS: tuple[OutputKind, ...] = tuple(kind for kind, spec in KINDS.items() if spec.positions)
LOSS_UNITS: dict[OutputKind, str] = {kind: spec.loss_unit for kind, spec in KINDS.items()}


@dataclass(frozen=True, slots=True)
class Head:
    """How a model's outputs are read.

    Attributes:
        kind: kind of the outputs.
        columns: numbers per row; 0 if it varies with the text (spans).
        read: computes the raw outputs for a batch, in the graph: float `[B, columns]`, `[B, T, columns]` for tags,
            vocabularies and next tokens, `[B, 2, T]` for spans.
    """

    kind: OutputKind
    columns: int
    read: Callable[[nn.Module, TokenBatch], torch.Tensor]

    @property
    def spec(self) -> HeadKind:
        """The implementation of this kind of head."""
        return KINDS[self.kind]

    @property
    def loss_unit(self) -> str:
        """Unit of losses between such outputs."""
        return self.spec.loss_unit


def head_of(model: nn.Module, source: str = "") -> Head:
    """Return the head of a transformers model, determined by its class and config.

    Args:
        model: a transformers model.
        source: the folder, for messages.

    Raises:
        InputFileError: the class has no supported kind of head; lists those that are supported.
    """
    name = type(model).__name__
    by_class = kind_of(name, source)
    config: Any = model.config
    spec = KINDS[by_class.by_config(config)]
    spec.check(config, source or name)
    return Head(spec.kind, spec.columns(config), spec.read)


def head_kind(architecture: str, source: str = "") -> OutputKind:
    """Return the kind of outputs from the name of a model's class (`architectures` in its `config.json`).

    Args:
        architecture: for example `BertForSequenceClassification`.
        source: the folder, for messages.

    Raises:
        InputFileError: the class has no supported kind of head; lists those that are supported.
    """
    return kind_of(architecture, source).kind


def answers(head: Head, model: nn.Module, batch: TokenBatch) -> Outputs:
    """Run a model on one batch; the values stay in the graph.

    Args:
        head: how the model's outputs are read.
        model: on the same device as the batch.
        batch: tokens and mask, `[B, T]`.
    """
    return rows(head.kind, head.read(model, batch), batch)


def rows(kind: OutputKind, raw: torch.Tensor, batch: TokenBatch) -> Outputs:
    """Select the labelled rows of raw outputs, in the order of the batch's samples.

    Args:
        kind: of the outputs.
        raw: result of `Head.read` for the batch.
        batch: the batch.
    """
    return of_rows(kind, KINDS[kind].rows(raw, batch), batch)


def of_rows(kind: OutputKind, values: torch.Tensor, batch: TokenBatch) -> Outputs:
    """Return labelled rows as outputs, with the samples and texts that they belong to.

    Args:
        kind: kind of the outputs.
        values: values of the rows, in the order of the batch's samples, `[rows, columns]`.
        batch: the batch.
    """
    counts = KINDS[kind].num_rows(batch)
    samples = torch.tensor(batch.indices).repeat_interleave(counts)
    texts = None if batch.texts is None else torch.tensor(batch.texts).repeat_interleave(counts)
    return Outputs(kind, values, samples, len(batch.indices), texts)


@torch.no_grad()
def collect(head: Head, model: nn.Module, batches: Sequence[TokenBatch]) -> Outputs:
    """Run a model over all batches without gradients; rows are in order of the sample indices.

    Args:
        head: how the model's outputs are read.
        model: in evaluation mode.
        batches: of tokenized texts; their indices restore the order of the samples.
    """
    return join([answers(head, model, batch) for batch in batches])


def join(parts: Sequence[Outputs]) -> Outputs:
    """Join the outputs for several batches, with rows in order of the sample indices.

    Args:
        parts: outputs of the same kind; columns are padded with `IMPOSSIBLE` if their numbers differ (spans).
    """
    width = max(part.values.shape[1] for part in parts)
    values = torch.cat([nn.functional.pad(p.values, (0, width - p.values.shape[1]), value=IMPOSSIBLE) for p in parts])
    samples = torch.cat([part.samples for part in parts])
    texts = None if any(part.texts is None for part in parts) else torch.cat([part.by_text for part in parts])
    order = samples.argsort(stable=True)
    num_samples = sum(part.num_samples for part in parts)
    return Outputs(parts[0].kind, values[order], samples[order], num_samples, None if texts is None else texts[order])


def rows_per_sample(kind: OutputKind, batches: Sequence[TokenBatch]) -> float:
    """Return the mean number of labelled rows per sample: 2 for spans, 1 where a sample has one answer.

    Args:
        kind: of the outputs.
        batches: of tokenized texts.
    """
    counts = [KINDS[kind].num_rows(batch) for batch in batches]
    return sum(int(count.sum()) for count in counts) / sum(len(count) for count in counts)
