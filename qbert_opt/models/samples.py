"""Batches of inputs, outputs, and correct answers: types shared by all heads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

OutputKind = Literal["classes", "tags", "spans", "vocabulary", "next_tokens", "regression", "embeddings"]
IMPOSSIBLE = -1e30  # logit of a position that cannot be the answer; finite, so that 0 * difference stays 0
NONE = -100  # target of a row whose answer is not among its columns; torch's losses ignore it


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Token ids and mask of a few samples, padded to the longest of them.

    A sample is one text or pair, or one window of a long text in span extraction and next-token prediction.

    Attributes:
        inputs: the model's inputs by name, each int64 `[B, T]`.
        indices: number of each sample, `[B]`; the position of its text in the list of texts unless `texts` is given.
        positions: bool `[B, T]`, True at tokens with a label: first sub-words for tags, the context and [CLS] for
            spans, masked tokens for vocabularies, tokens whose successor is predicted for next tokens; None if
            labels belong to samples.
        texts: position of each sample's text in the list of texts, `[B]`; None if each text is one sample.
        lost: amount of each sample lost by truncation, `[B]`: words for tags, tokens otherwise; empty if nothing can be
            truncated.
    """

    inputs: dict[str, torch.Tensor]
    indices: tuple[int, ...]
    positions: torch.Tensor | None = None
    texts: tuple[int, ...] | None = None
    lost: tuple[int, ...] = ()

    @property
    def mask(self) -> torch.Tensor:
        """Bool `[B, T]`: True at real tokens. Padding must not enter any statistic."""
        return self.inputs["attention_mask"].bool()

    @property
    def labelled(self) -> torch.Tensor:
        """Positions that have a label, bool `[B, T]`.

        Raises:
            ValueError: labels belong to samples.
        """
        if self.positions is None:
            raise ValueError("these batches have labels per sample, not per position")
        return self.positions

    def take(self, rows: Sequence[int]) -> TokenBatch:
        """Return some of the samples, padded as in this batch.

        Args:
            rows: positions of the samples in this batch.
        """
        where = torch.tensor(rows, dtype=torch.int64)
        return replace(
            self,
            inputs={name: tensor[where] for name, tensor in self.inputs.items()},
            indices=tuple(self.indices[row] for row in rows),
            positions=None if self.positions is None else self.positions[where],
            texts=None if self.texts is None else tuple(self.texts[row] for row in rows),
            lost=tuple(self.lost[row] for row in rows) if self.lost else (),
        )

    def select(self, marks: Sequence[bool]) -> TokenBatch:
        """Return the marked samples, padded as in this batch.

        Args:
            marks: for each sample of this batch, whether to return it.
        """
        return self.take([row for row, take in enumerate(marks) if take])

    def split(self, size: int) -> Iterator[TokenBatch]:
        """Yield batches of at most `size` samples, padded as in this batch.

        Args:
            size: at least 1.
        """
        for start in range(0, len(self.indices), size):
            yield self.take(range(start, min(start + size, len(self.indices))))


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """Outputs of a model for some samples.

    Attributes:
        kind: kind of the outputs, which determines what a row is.
        values: float `[rows, columns]`.
        samples: int64 `[rows]`, the sample that each row belongs to, ascending; a sample without labelled positions
            has no row.
        num_samples: number of samples, including those without rows.
        texts: int64 `[rows]`, the text that each row belongs to; None if each text is one sample.
    """

    kind: OutputKind
    values: torch.Tensor
    samples: torch.Tensor
    num_samples: int
    texts: torch.Tensor | None = None

    def first(self, rows: int) -> Outputs:
        """Return the first rows; the number of samples stays the same.

        Args:
            rows: number of rows.
        """
        texts = None if self.texts is None else self.texts[:rows]
        return replace(self, values=self.values[:rows], samples=self.samples[:rows], texts=texts)

    @property
    def by_text(self) -> torch.Tensor:
        """The text that each row belongs to, int64 `[rows]`."""
        return self.samples if self.texts is None else self.texts

    @property
    def num_texts(self) -> int:
        """Number of texts."""
        return self.num_samples if self.texts is None else len(set(self.texts.tolist()))


@dataclass(frozen=True, slots=True, eq=False)
class SpanWindow:
    """One window of a context.

    Attributes:
        question: number of the question among the texts.
        text: the whole context.
        offsets: int32 `[T, 2]`, the characters `[start, end)` of each token; (0, 0) outside the context.
        accepted: the accepted answers; none for an unanswerable question.
        none: position of the token whose score means no answer; None without one.
    """

    question: int
    text: str
    offsets: NDArray[np.int32]
    accepted: tuple[str, ...]
    none: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Correct answers.

    Attributes:
        kind: of the outputs.
        rows: the correct column of each row, int64; for regressions the number itself, float64; `NONE` if the answer is
            not among the columns.
        samples: the sample that each row belongs to, int64, ascending.
        names: names of the columns of classes and tags.
        words: for tags: which words of each sample have a row.
        tags: for tags: the tags of all words of each sample, including truncated words.
        spans: for spans: each window.
        answerable: for spans: whether every question of the data set has an answer, so that an empty answer is wrong.
    """

    kind: OutputKind
    rows: torch.Tensor
    samples: torch.Tensor
    names: tuple[str, ...] = ()
    words: tuple[tuple[int, ...], ...] = ()
    tags: tuple[tuple[str, ...], ...] = ()
    spans: tuple[SpanWindow, ...] = ()
    answerable: bool = True

    def of(self, outputs: Outputs) -> torch.Tensor:
        """Return the correct answers for the rows of some outputs, for example of one batch, in their order.

        Args:
            outputs: outputs for some of the samples.
        """
        given = outputs.samples.cpu().numpy()
        firsts = np.flatnonzero(np.diff(given, prepend=-1))
        counts = np.diff(firsts, append=len(given))
        starts = np.searchsorted(self.samples.numpy(), given[firsts])
        parts = [self.rows[a : a + n] for a, n in zip(starts.tolist(), counts.tolist(), strict=True)]
        return torch.cat(parts) if parts else self.rows[:0]
