"""The interface of a kind of head, and shared pieces of its implementations."""

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
    """Tokenizer of a model with its limits.

    Attributes:
        name: what the user called the model.
        tokenizer: the model's tokenizer.
        longest: length in tokens at which texts are truncated.
        names: names of the head's outputs.
        given: whether ready samples of a plain module are used instead of texts; they have no labels per position.
    """

    name: str
    tokenizer: Any
    longest: int
    names: tuple[str, ...] = ()
    given: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """One tokenized sample.

    Attributes:
        encoded: the tokenizer's outputs, by name.
        positions: which tokens have a label, `[T]`; None if the label belongs to the sample.
        lost: amount lost by truncation: words for tags, tokens otherwise.
    """

    encoded: Mapping[str, Any]
    positions: list[bool] | None = None
    lost: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Ratio:
    """A figure of quality as the ratio of two sums over texts.

    Attributes:
        above: each text's contribution to the numerator, float64 `[texts]`.
        below: each text's contribution to the denominator, float64 `[texts]`.
    """

    above: NDArray[np.float64]
    below: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """Two numbers for each pair of texts, to be compared by rank.

    Attributes:
        found: the model's similarities, float64 `[pairs]`.
        given: the labels, float64 `[pairs]`.
    """

    found: NDArray[np.float64]
    given: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Quality:
    """Quality of answers according to labels; see the fields of the same names in `Evaluation`.

    `cross_entropy` is in nats per row; its exponential is the perplexity.
    """

    accuracy: Ratio | None = None
    cross_entropy: Ratio | None = None
    macro_f1: float | None = None
    entity_f1: Ratio | None = None
    exact_match: Ratio | None = None
    answer_f1: Ratio | None = None
    correlation: float | None = None
    spearman: Ranked | None = None


class HeadKind(Protocol):
    """One kind of head.

    Attributes:
        kind: its name.
        ending: suffix of such classes' names in transformers; empty if the class is shared with another kind.
        other_endings: further suffixes of such classes' names.
        auto_class: transformers' class that loads such a model.
        row: what a row of outputs belongs to.
        loss: loss between the outputs of a reference and of a model.
        loss_unit: unit of the loss.
        positions: whether labels belong to positions; batches then mark these.
        classifies: whether each sample has one row of few logits, so that all columns of the output Hessian can be
            back-propagated.
        named: whether the columns have names in `id2label`.
        trainable: whether `fine_tune` supports it.
        reads_pairs: whether it requires pairs of texts.
        retrieves: whether rows are vectors that users compare with each other by their cosine.
        spare_weights: name prefixes of weights that a checkpoint may lack because they do not affect the outputs.
        tokenizer_options: options for loading a tokenizer.
        lost_unit: unit of what truncation removes.
        default_tokens: default length in tokens at which texts are truncated; None is the model's window.
        figures: figures of quality in a report: field of `Evaluation` and title.
    """

    kind: OutputKind
    auto_class: Any
    row: str
    loss: RowLoss
    loss_unit: str
    ending: str = ""
    other_endings: tuple[str, ...] = ()
    positions: bool = False
    classifies: bool = False
    named: bool = False
    trainable: bool = False
    reads_pairs: bool = False
    retrieves: bool = False
    spare_weights: tuple[str, ...] = ()
    tokenizer_options: Mapping[str, Any] = MappingProxyType({})
    lost_unit: str = "tokens"
    default_tokens: int | None = None
    figures: tuple[tuple[str, str], ...] = ()

    def by_config(self, config: Any) -> OutputKind:
        """Return the kind of a model from its config: this kind, unless several kinds share the model's class.

        Args:
            config: transformers' config.
        """
        return self.kind

    def columns(self, config: Any) -> int:
        """Return the number of columns from a model's config; 0 if it varies with the text.

        Args:
            config: transformers' config.
        """
        return int(config.num_labels)

    def check(self, config: Any, name: str) -> None:
        """Refuse a config that this kind of head does not support.

        Args:
            config: transformers' config.
            name: what the user called the model.

        Raises:
            InputFileError: the config is not supported; the message gives the reason.
        """
        return None

    def exact_columns(self, columns: int) -> int:
        """Return the number of columns of a square root of a sample's output Hessian; 0 if there are too many.

        Args:
            columns: number of columns of the outputs.
        """
        return 0

    def read(self, model: nn.Module, batch: TokenBatch) -> torch.Tensor:
        """Return the raw outputs `[B, columns]`, `[B, T, columns]` or, for spans, `[B, 2, T]`, in the graph.

        Args:
            model: the model to run.
            batch: its inputs.
        """
        answer: torch.Tensor = model(**batch.inputs).logits
        return answer

    def num_rows(self, batch: TokenBatch) -> torch.Tensor:
        """Return the number of labelled rows of each sample in a batch, int64 `[B]`."""
        return batch.labelled.sum(1) if self.positions else torch.ones(len(batch.indices), dtype=torch.int64)

    def rows(self, raw: torch.Tensor, batch: TokenBatch) -> torch.Tensor:
        """Return the labelled rows of raw outputs, `[rows, columns]`, in the order of the batch's samples.

        Args:
            raw: what `read` returned.
            batch: the samples.
        """
        return raw[batch.labelled] if self.positions else raw

    def samples(self, reader: TextReader, text: tuple[str, ...], index: int) -> list[Sample]:
        """Tokenize one text or pair into one sample, or into several windows.

        Args:
            reader: the tokenizer with its limits.
            text: one or two strings.
            index: its position in the list of texts.

        Raises:
            InputFileError: the text does not suit the kind of head.
        """
        return [whole_or_cut(reader, text)]

    def targets(self, reader: TextReader, data: LabeledTexts, batches: Sequence[TokenBatch]) -> Targets | None:
        """Return the correct answers; None if the data has no labels, or labels do not apply to the kind of head.

        Args:
            reader: the tokenizer that `batches` were made with.
            data: the labelled texts.
            batches: the same texts, tokenized.

        Raises:
            InputFileError: the model does not know a label, or a label does not suit the kind of head.
        """
        ...

    def quality(self, outputs: Outputs, targets: Targets) -> Quality:
        """Compare outputs with the correct answers.

        Args:
            outputs: outputs of the model.
            targets: the correct answers for the same samples.
        """
        ...

    def label_names(self, data: LabeledTexts) -> list[str]:
        """Return the names of the outputs of a new head for these labels.

        Args:
            data: the labelled texts.
        """
        ...


def whole_or_cut(reader: TextReader, text: tuple[str, ...], **options: Any) -> Sample:
    """Tokenize a text, truncated to `reader.longest`; the sample records how many tokens were lost.

    Args:
        reader: the tokenizer with its limits.
        text: one or two strings.
        options: options of the tokenizer.
    """
    encoded = reader.tokenizer(*text, verbose=False, **options)
    lost = len(encoded["input_ids"]) - reader.longest
    if lost > 0:
        encoded = reader.tokenizer(*text, truncation=True, max_length=reader.longest, **options)
    return Sample(encoded, None, max(0, lost))


def check_texts(kind: OutputKind, text: tuple[str, ...], index: int, num_texts: int, need: str) -> None:
    """Refuse a single text for a model of pairs, and a pair for a model of single texts.

    Args:
        kind: kind of the model's outputs.
        text: one or two strings.
        index: number of the sample, from 0.
        num_texts: number of strings that the model reads, 1 or 2.
        need: what to give instead, for the message.

    Raises:
        InputFileError: the sample does not have `num_texts` texts.
    """
    if len(text) != num_texts:
        raise InputFileError(f"sample {index + 1} has {len(text)} texts; a model of {kind} reads {need}.")


def right_rows(outputs: Outputs, targets: Targets) -> Ratio:
    """Return the share of rows whose largest column is the correct one, by text.

    Args:
        outputs: values `[rows, columns]`.
        targets: the correct column of each row.
    """
    right = (outputs.values.argmax(-1) == targets.rows).double()
    return per_text(outputs, right)


def per_text(outputs: Outputs, rows: torch.Tensor) -> Ratio:
    """Return the sum of `rows` over each text, relative to its number of rows; texts without rows are left out.

    Args:
        outputs: assigns each row to a text.
        rows: a figure for each row, `[rows]`.
    """
    present, where = np.unique(outputs.by_text.cpu().numpy(), return_inverse=True)
    above, below = np.zeros(len(present)), np.zeros(len(present))
    np.add.at(above, where, rows.cpu().double().numpy())
    np.add.at(below, where, 1.0)
    return Ratio(above, below)
