"""What a model answers, as one noun for every kind of head: rows of numbers, one row for each position with a label.

classes      one row per sample: logits over classes (one text or a pair)
tags         one row per word: logits over tags at its first sub-word
spans        two rows per sample, start and end: logits over the positions of the text that is searched
vocabulary   one row per masked token: logits over the vocabulary
regression   one row per sample: the numbers themselves
embeddings   one row per sample: mean of the last hidden states over its tokens
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from ..errors import InputFileError
from .batches import TokenBatch
from .sentence_embeddings import embedding_of

OutputKind = Literal["classes", "tags", "spans", "vocabulary", "regression", "embeddings"]
SOFTMAX_KINDS: tuple[OutputKind, ...] = ("classes", "tags", "spans", "vocabulary")
POSITION_KINDS: tuple[OutputKind, ...] = ("tags", "spans", "vocabulary")  # their batches say which positions count
HEADS: dict[str, OutputKind] = {
    "ForSequenceClassification": "classes",
    "ForTokenClassification": "tags",
    "ForQuestionAnswering": "spans",
    "ForMaskedLM": "vocabulary",
    "Model": "embeddings",
}
LOSS_UNITS: dict[OutputKind, str] = {
    "classes": "nats of KL(reference || quantized) per sample",
    "tags": "nats of KL(reference || quantized) per word",
    "spans": "nats of KL(reference || quantized) per start or end",
    "vocabulary": "nats of KL(reference || quantized) per masked token",
    "regression": "squared output difference per sample",
    "embeddings": "squared output distance relative to the output's squared length",
}
IMPOSSIBLE = -1e30  # logit of a position that cannot be the answer; finite, so that 0 * difference stays 0


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """Answers of a model to some samples.

    Attributes:
        kind: what the rows are.
        values: float `[rows, columns]`.
        samples: int64 `[rows]`, the sample that each row belongs to, ascending; a sample without labelled positions
            has no row.
        num_samples: samples asked, those without rows included.
    """

    kind: OutputKind
    values: torch.Tensor
    samples: torch.Tensor
    num_samples: int


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
    def loss_unit(self) -> str:
        """What losses of such answers are in."""
        return LOSS_UNITS[self.kind]


def head_of(model: nn.Module, source: str = "") -> Head:
    """Return how the answers of a transformers model are read, by its class.

    Raises:
        InputFileError: a class with another kind of head; names those that are known.
    """
    name = type(model).__name__
    kind = head_kind(name, source)
    config: Any = model.config
    if kind == "classes" and (config.num_labels == 1 or config.problem_type == "regression"):
        kind = "regression"
    if config.problem_type == "multi_label_classification" and kind == "classes":
        raise InputFileError(f"{source or name}: answers with several labels at once, which is not supported.")
    embedding = embedding_of(config) if kind == "embeddings" else None
    if embedding is not None:
        return Head(kind, len(embedding.modes) * config.hidden_size, embedding.read)
    columns = {
        "spans": 0,
        "vocabulary": getattr(config, "vocab_size", 0),
        "embeddings": getattr(config, "hidden_size", 0),
    }
    return Head(kind, columns.get(kind, config.num_labels), _READERS[kind])


def head_kind(architecture: str, source: str = "") -> OutputKind:
    """Return the kind of output by the name of a model's class, as `architectures` in its `config.json` has it.

    Raises:
        InputFileError: a class with another kind of head; names those that are known.
    """
    for ending, kind in HEADS.items():
        if architecture.endswith(ending):
            return kind
    known = ", ".join(f"…{ending}" for ending in HEADS)
    raise InputFileError(
        f"{source or architecture}: is a {architecture}. Legal: {known}. Give a model with such a head."
    )


def answers(head: Head, model: nn.Module, batch: TokenBatch) -> Outputs:
    """Run a model on one batch; the values stay in the graph."""
    return rows(head.kind, head.read(model, batch), batch)


def rows(kind: OutputKind, raw: torch.Tensor, batch: TokenBatch) -> Outputs:
    """Pick the rows with a label out of a raw answer, in order of the samples of the batch.

    Args:
        kind: what the model answers.
        raw: `[B, columns]`, `[B, T, columns]` for tags and vocabularies, `[B, 2, T]` for spans.
        batch: the batch that was answered.
    """
    indices = torch.tensor(batch.indices)
    if kind == "spans":
        values = raw.masked_fill(~batch.labelled.to(raw.device)[:, None, :], IMPOSSIBLE).flatten(0, 1)
        return Outputs(kind, values, indices.repeat_interleave(2), len(indices))
    if kind in POSITION_KINDS:
        counts = batch.labelled.sum(1)
        return Outputs(kind, raw[batch.labelled], indices.repeat_interleave(counts), len(indices))
    return Outputs(kind, raw, indices, len(indices))


@torch.no_grad()
def collect(head: Head, model: nn.Module, batches: Sequence[TokenBatch]) -> Outputs:
    """Run a model over all batches; rows in order of the samples."""
    return join([answers(head, model, batch) for batch in batches])


def join(parts: Sequence[Outputs]) -> Outputs:
    """Put the answers to several batches together, rows in order of the samples."""
    width = max(part.values.shape[1] for part in parts)
    values = torch.cat([nn.functional.pad(p.values, (0, width - p.values.shape[1]), value=IMPOSSIBLE) for p in parts])
    samples = torch.cat([part.samples for part in parts])
    order = samples.argsort(stable=True)
    return Outputs(parts[0].kind, values[order], samples[order], sum(part.num_samples for part in parts))


def rows_per_sample(kind: OutputKind, batches: Sequence[TokenBatch]) -> float:
    """Return the mean number of labelled rows of a sample: 1, 2 for spans, words or masked tokens else."""
    if kind == "spans":
        return 2.0
    if kind not in POSITION_KINDS:
        return 1.0
    return sum(int(batch.labelled.sum()) for batch in batches) / sum(len(batch.indices) for batch in batches)


def _logits(model: nn.Module, batch: TokenBatch) -> torch.Tensor:
    found: torch.Tensor = model(**batch.inputs).logits
    return found


def _start_and_end(model: nn.Module, batch: TokenBatch) -> torch.Tensor:
    found = model(**batch.inputs)
    return torch.stack([found.start_logits, found.end_logits], 1)


def _mean_state(model: nn.Module, batch: TokenBatch) -> torch.Tensor:
    states = model(**batch.inputs).last_hidden_state
    weights = batch.mask[:, :, None].to(states)
    return (states * weights).sum(1) / weights.sum(1)


_READERS: dict[OutputKind, Callable[[nn.Module, TokenBatch], torch.Tensor]] = {
    "classes": _logits,
    "regression": _logits,
    "tags": _logits,
    "vocabulary": _logits,
    "spans": _start_and_end,
    "embeddings": _mean_state,
}
