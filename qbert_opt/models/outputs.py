"""What a model answers, as one noun for every kind of head: rows of numbers, one row for each position with a label.

classes      one row per sample: logits over classes (one text or a pair)
tags         one row per word: logits over tags at its first sub-word
spans        two rows per window of a text, start and end: logits over its positions and [CLS]
vocabulary   one row per masked token: logits over the vocabulary
regression   one row per sample: the numbers themselves
embeddings   one row per sample: mean of the last hidden states over its tokens

What is particular to a kind is in `heads/`.
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
    "collect", "head_kind", "head_of", "join", "rows", "rows_per_sample",
]  # fmt: skip

SOFTMAX_KINDS: tuple[OutputKind, ...] = tuple(kind for kind, spec in KINDS.items() if spec.loss.softmax)
POSITION_KINDS: tuple[OutputKind, ...] = tuple(kind for kind, spec in KINDS.items() if spec.positions)
LOSS_UNITS: dict[OutputKind, str] = {kind: spec.loss_unit for kind, spec in KINDS.items()}


@dataclass(frozen=True, slots=True)
class Head:
    """How a model's answers are read.

    Attributes:
        kind: what its rows are.
        columns: numbers in a row; 0 where it varies with the text (spans).
        read: the model's raw answer to a batch, in the graph: float `[B, columns]`, `[B, T, columns]` for tags and
            vocabularies, `[B, 2, T]` for spans.
    """

    kind: OutputKind
    columns: int
    read: Callable[[nn.Module, TokenBatch], torch.Tensor]

    @property
    def spec(self) -> HeadKind:
        """What all heads of the kind have in common."""
        return KINDS[self.kind]

    @property
    def loss_unit(self) -> str:
        """What losses of such answers are in."""
        return self.spec.loss_unit


def head_of(model: nn.Module, source: str = "") -> Head:
    """Return how the answers of a transformers model are read, by its class.

    Args:
        model: its config says its class.
        source: the folder, for messages.

    Raises:
        InputFileError: a class with another kind of head; names those that are known.
    """
    name = type(model).__name__
    by_class = kind_of(name, source)
    config: Any = model.config
    spec = KINDS[by_class.by_config(config)]
    spec.check(config, source or name)
    return Head(spec.kind, spec.columns(config), spec.read)


def head_kind(architecture: str, source: str = "") -> OutputKind:
    """Return the kind of output by the name of a model's class, as `architectures` in its `config.json` has it.

    Args:
        architecture: for example `BertForSequenceClassification`.
        source: the folder, for messages.

    Raises:
        InputFileError: a class with another kind of head; names those that are known.
    """
    return kind_of(architecture, source).kind


def answers(head: Head, model: nn.Module, batch: TokenBatch) -> Outputs:
    """Run a model on one batch; the values stay in the graph.

    Args:
        head: how its answers are read.
        model: on the same device as the batch.
        batch: tokens and mask, `[B, T]`.
    """
    return rows(head.kind, head.read(model, batch), batch)


def rows(kind: OutputKind, raw: torch.Tensor, batch: TokenBatch) -> Outputs:
    """Pick the rows with a label out of a raw answer, in order of the samples of the batch.

    Args:
        kind: what the model answers.
        raw: `[B, columns]`, `[B, T, columns]` for tags and vocabularies, `[B, 2, T]` for spans.
        batch: the batch that was answered.
    """
    spec = KINDS[kind]
    counts = spec.num_rows(batch)
    samples = torch.tensor(batch.indices).repeat_interleave(counts)
    texts = None if batch.texts is None else torch.tensor(batch.texts).repeat_interleave(counts)
    return Outputs(kind, spec.rows(raw, batch), samples, len(batch.indices), texts)


@torch.no_grad()
def collect(head: Head, model: nn.Module, batches: Sequence[TokenBatch]) -> Outputs:
    """Run a model over all batches; rows in order of the samples.

    Args:
        head: how its answers are read.
        model: run without gradients.
        batches: of tokenized texts, in any order of samples.
    """
    return join([answers(head, model, batch) for batch in batches])


def join(parts: Sequence[Outputs]) -> Outputs:
    """Put the answers to several batches together, rows in order of the samples.

    Args:
        parts: of the same kind of output.
    """
    width = max(part.values.shape[1] for part in parts)
    values = torch.cat([nn.functional.pad(p.values, (0, width - p.values.shape[1]), value=IMPOSSIBLE) for p in parts])
    samples = torch.cat([part.samples for part in parts])
    texts = None if any(part.texts is None for part in parts) else torch.cat([part.by_text for part in parts])
    order = samples.argsort(stable=True)
    num_samples = sum(part.num_samples for part in parts)
    return Outputs(parts[0].kind, values[order], samples[order], num_samples, None if texts is None else texts[order])


def rows_per_sample(kind: OutputKind, batches: Sequence[TokenBatch]) -> float:
    """Return the mean number of labelled rows of a sample: 1, 2 for spans, words or masked tokens else.

    Args:
        kind: what the model answers with.
        batches: of tokenized texts.
    """
    counts = [KINDS[kind].num_rows(batch) for batch in batches]
    return sum(int(count.sum()) for count in counts) / sum(len(count) for count in counts)
