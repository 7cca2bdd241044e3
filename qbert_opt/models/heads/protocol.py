"""What a kind of head says of itself; whoever needs to know asks the head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...data.texts import LabeledTexts
from ...errors import InputFileError
from ..samples import OutputKind, Outputs, Targets, TokenBatch
from .losses import RowLoss


@dataclass(frozen=True, slots=True)
class TextReader:
    """What reads the texts of a model.

    Attributes:
        name: what the user called the model.
        tokenizer: the model's.
        longest: tokens at which a text is cut.
        names: of the head's outputs.
        given: whether the samples came ready, with a plain module, and have no labels of positions.
    """

    name: str
    tokenizer: Any
    longest: int
    names: tuple[str, ...] = ()
    given: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample, tokenized.

    Attributes:
        encoded: what the tokenizer made of it, by name.
        positions: where a label belongs, `[T]`; None where it belongs to the sample.
        lost: what was cut away: words of tags, tokens otherwise.
    """

    encoded: Mapping[str, Any]
    positions: list[bool] | None = None
    lost: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Ratio:
    """A figure of quality: one sum over texts over another.

    Attributes:
        above: each text's part of the upper sum, float64 `[texts]`.
        below: each text's part of the lower sum.
    """

    above: NDArray[np.float64]
    below: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Quality:
    """What can be said of answers by the right ones; see `Evaluation`, whose fields these become."""

    accuracy: Ratio | None = None
    macro_f1: float | None = None
    entity_f1: Ratio | None = None
    exact_match: Ratio | None = None
    answer_f1: Ratio | None = None
    correlation: float | None = None


class HeadKind(Protocol):
    """One kind of head.

    Attributes:
        kind: its name.
        ending: how the names of such classes end in transformers; empty where another kind's class has it.
        auto_class: transformers' class that loads such a model.
        row: what a row of answers belongs to.
        loss: between a reference's answers and a model's.
        loss_unit: what losses are in.
        positions: whether batches say which positions have a label.
        classifies: whether a row of a few logits stands for a whole sample, so that all columns of the output's
            Hessian can be back-propagated.
        named: whether the columns have names in `id2label`.
        trainable: whether `fine_tune` can learn it.
        reads_pairs: whether it reads nothing but pairs of texts.
        spare_weights: beginnings of the names of weights that a checkpoint may lack, since no answer hangs on them.
        tokenizer_options: for loading a tokenizer.
        lost_unit: what is counted of a text that is cut.
        default_tokens: tokens at which a text is cut by default; None is the model's window.
        figures: the figures of quality in a report: field of `Evaluation` and title.
    """

    kind: OutputKind
    auto_class: Any
    row: str
    loss: RowLoss
    loss_unit: str
    ending: str = ""
    positions: bool = False
    classifies: bool = False
    named: bool = False
    trainable: bool = False
    reads_pairs: bool = False
    spare_weights: tuple[str, ...] = ()
    tokenizer_options: Mapping[str, Any] = MappingProxyType({})
    lost_unit: str = "tokens"
    default_tokens: int | None = None
    figures: tuple[tuple[str, str], ...] = ()

    def by_config(self, config: Any) -> OutputKind:
        """Return the kind that a model of this class has by its config; its own, unless they share the class."""
        return self.kind

    def columns(self, config: Any) -> int:
        """Return the numbers in a row by a model's config; 0 where it varies with the text."""
        return int(config.num_labels)

    def check(self, config: Any, name: str) -> None:
        """Refuse a config with which such a head cannot answer.

        Raises:
            InputFileError: says why.
        """
        return None

    def exact_columns(self, columns: int) -> int:
        """Return the columns of a square root of one sample's output Hessian; 0 where they are too many to count."""
        return 0

    def read(self, model: nn.Module, batch: TokenBatch) -> torch.Tensor:
        """Run a model; the answer stays in the graph, `[B, columns]`, `[B, T, columns]` or `[B, 2, T]` for spans."""
        answer: torch.Tensor = model(**batch.inputs).logits
        return answer

    def num_rows(self, batch: TokenBatch) -> torch.Tensor:
        """Return the labelled rows of each sample, int64 `[B]`."""
        return batch.labelled.sum(1) if self.positions else torch.ones(len(batch.indices), dtype=torch.int64)

    def rows(self, raw: torch.Tensor, batch: TokenBatch) -> torch.Tensor:
        """Pick the rows with a label out of a raw answer, `[rows, columns]`, in order of the samples of the batch."""
        return raw[batch.labelled] if self.positions else raw

    def samples(self, reader: TextReader, text: tuple[str, ...], index: int) -> list[Sample]:
        """Tokenize one text or pair: one sample, or its windows.

        Args:
            reader: reads it.
            text: one or two strings.
            index: its position in the list of texts.

        Raises:
            InputFileError: it does not fit the kind of head.
        """
        return [whole_or_cut(reader, text)]

    def targets(self, reader: TextReader, data: LabeledTexts, batches: Sequence[TokenBatch]) -> Targets | None:
        """Return the right answers; None where the data has none, or there is no right and wrong.

        Args:
            reader: tokenized the texts.
            data: the texts.
            batches: what it made of them.

        Raises:
            InputFileError: labels that the model does not know, or that are not of its kind.
        """
        ...

    def quality(self, found: Outputs, targets: Targets) -> Quality:
        """Return what can be said of answers by the right ones."""
        ...

    def label_names(self, data: LabeledTexts) -> list[str]:
        """Return the names of the outputs of a head that is to learn from these labels."""
        ...


def whole_or_cut(reader: TextReader, text: tuple[str, ...], **options: Any) -> Sample:
    """Tokenize a text, cut at the reader's longest; a sample knows how many tokens were lost.

    Args:
        reader: reads it.
        text: one or two strings.
        options: for the tokenizer.
    """
    encoded = reader.tokenizer(*text, verbose=False, **options)
    lost = len(encoded["input_ids"]) - reader.longest
    if lost > 0:
        encoded = reader.tokenizer(*text, truncation=True, max_length=reader.longest, **options)
    return Sample(encoded, None, max(0, lost))


def check_texts(kind: OutputKind, text: tuple[str, ...], index: int, wanted: int, need: str) -> None:
    """Refuse a text where a pair is read, and a pair where one text is.

    Args:
        kind: what the model answers with.
        text: its one or two parts.
        index: of the sample, from 0.
        wanted: parts that the model reads, 1 or 2.
        need: what to give instead, for the message.

    Raises:
        InputFileError: says what is needed.
    """
    if len(text) != wanted:
        raise InputFileError(f"sample {index + 1} has {len(text)} texts; a model of {kind} reads {need}.")


def right_rows(found: Outputs, targets: Targets) -> Ratio:
    """Share of rows whose largest column is the right one, text by text.

    Args:
        found: values `[rows, columns]`.
        targets: the right column of each row.
    """
    right = (found.values.argmax(-1) == targets.rows).double()
    return per_text(found, right)


def per_text(found: Outputs, rows: torch.Tensor) -> Ratio:
    """Sum rows `[rows]` over each text, beside the text's number of rows; texts without rows are left out.

    Args:
        found: says which rows are a text's.
        rows: one figure for each row.
    """
    present, where = np.unique(found.by_text.cpu().numpy(), return_inverse=True)
    above, below = np.zeros(len(present)), np.zeros(len(present))
    np.add.at(above, where, rows.cpu().double().numpy())
    np.add.at(below, where, 1.0)
    return Ratio(above, below)
