"""Answers found in a text: two rows per window, start and end, logits over the text's positions and [CLS].

A text that is longer than a window is read in windows that overlap by 128 tokens, as by BERT's SQuAD script. A window
is a sample of its own for everything that scores or rounds: losses are means over the starts and ends of all windows,
so that a long text counts by its windows. Measured answers are per question: the best span of all its windows. [CLS]
stands for "the answer is not here": its score decides for no answer where the data set has questions without one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForQuestionAnswering

from ...data.texts import LabeledTexts
from ...errors import InputFileError
from ..samples import IMPOSSIBLE, NONE, Outputs, SpanWindow, Targets, TokenBatch
from .answer_texts import answer_f1, exact_match
from .losses import KL
from .protocol import HeadKind, Quality, Ratio, Sample, TextReader, check_texts

WINDOW_TOKENS = 384  # BERT's SQuAD script, which most such models were trained with
OVERLAP_TOKENS = 128
LONGEST_ANSWER = 30  # tokens, likewise
NO_ANSWER_MARGIN = 0.0  # by which the score of no answer must exceed the best span's


class Spans(HeadKind):
    """A model that finds the answer to a question in a text."""

    kind = "spans"
    ending = "ForQuestionAnswering"
    auto_class = AutoModelForQuestionAnswering
    row = "start or end"
    loss = KL()
    loss_unit = "nats of KL(reference || quantized) per start or end"
    positions = True
    trainable = True
    reads_pairs = True
    default_tokens = WINDOW_TOKENS
    figures = (("exact_match", "EM [95 %]"), ("answer_f1", "F1 [95 %]"))

    def columns(self, config: Any) -> int:
        """Positions vary with the text."""
        return 0

    def check(self, config: Any, name: str) -> None:
        """Refuse a head with other outputs than start and end."""
        if config.num_labels != 2:
            raise InputFileError(
                f"{name}: its head has {config.num_labels} outputs; one that finds spans has 2, start and end. "
                "Set num_labels to 2 and save the model with such a head."
            )

    def read(self, model: nn.Module, batch: TokenBatch) -> torch.Tensor:
        """Return logits of starts and ends, `[B, 2, T]`."""
        answer = model(**batch.inputs)
        return torch.stack([answer.start_logits, answer.end_logits], 1)

    def num_rows(self, batch: TokenBatch) -> torch.Tensor:
        """Start and end of each window."""
        return torch.full((len(batch.indices),), 2)

    def rows(self, raw: torch.Tensor, batch: TokenBatch) -> torch.Tensor:
        """Lay starts and ends under each other, `[2 B, T]`; what cannot be the answer is `IMPOSSIBLE`."""
        return raw.masked_fill(~batch.labelled.to(raw.device)[:, None, :], IMPOSSIBLE).flatten(0, 1)

    def samples(self, reader: TextReader, text: tuple[str, ...], index: int) -> list[Sample]:
        """Tokenize a question and the text that is searched, window by window; nothing is cut away."""
        encoded, inputs = _windows(reader, text, index)
        found = []
        for number in range(len(encoded["input_ids"])):
            window = {name: encoded[name][number] for name in inputs}
            where = _searched(encoded, number)
            none = _none_token(reader, window["input_ids"])
            if none is not None:
                where[none] = True
            found.append(Sample(window, where))
        return found

    def targets(self, reader: TextReader, data: LabeledTexts, batches: Sequence[TokenBatch]) -> Targets | None:
        """Return the tokens where the first accepted answer starts and ends, in each window.

        Its first occurrence counts. A window without it has [CLS] instead; where no window holds the whole answer
        there is none for any of them.
        """
        if data.labels is None or reader.given:
            return None
        rows: list[int] = []
        spans: list[SpanWindow] = []
        for index, (text, accepted) in enumerate(zip(data.texts, accepted_answers(data), strict=True)):
            encoded, _ = _windows(reader, text, index)
            windows = [
                SpanWindow(index, text[1], _offsets(encoded, number), accepted, _none_token(reader, ids))
                for number, ids in enumerate(encoded["input_ids"])
            ]
            rows += _right_tokens(windows)
            spans += windows
        whole = data.labels if data.whole_labels is None else data.whole_labels
        answerable = all(any(answer.strip() for answer in _answers(label) or ()) for label in whole)
        samples = torch.arange(len(spans)).repeat_interleave(2)
        rights = torch.tensor(rows, dtype=torch.int64)
        return Targets(self.kind, rights, samples, spans=tuple(spans), answerable=answerable)

    def quality(self, found: Outputs, targets: Targets) -> Quality:
        """Share of answers equal to an accepted one, and F1 of their words, as SQuAD's official script counts them."""
        texts = answers_of(found, targets)
        rights = [next(windows).accepted for _, windows in groupby(targets.spans, key=lambda span: span.question)]
        pairs = list(zip(texts, rights, strict=True))
        ones = np.ones(len(pairs))
        exact = np.array([exact_match(text, right) for text, right in pairs], dtype=np.float64)
        f1 = np.array([answer_f1(text, right) for text, right in pairs])
        return Quality(exact_match=Ratio(exact, ones), answer_f1=Ratio(f1, ones))

    def label_names(self, data: LabeledTexts) -> list[str]:
        """Its two outputs have fixed names."""
        return ["start", "end"]


def answers_of(found: Outputs, targets: Targets) -> list[str]:
    """Return the answer to each question: the piece of text whose start and end have the largest sum of logits.

    The end is not before the start, and at most `LONGEST_ANSWER` tokens long. Where the data set has questions without
    an answer, none is given if the least score of [CLS] over all windows exceeds the best span's, as by BERT's script.

    Args:
        found: logits of starts and ends.
        targets: the questions with their texts.
    """
    texts: list[str] = []
    rows = iter(found.values.view(len(targets.spans), 2, -1))
    for _, windows in groupby(targets.spans, key=lambda span: span.question):
        best, answer, none = -np.inf, "", np.inf
        for window in windows:
            start, end = next(rows).double()
            if window.none is not None:
                none = min(none, float(start[window.none] + end[window.none]))
            score, text = _best_span(start, end, window)
            if score > best:
                best, answer = score, text
        refused = not targets.answerable and np.isfinite(none) and none - best > NO_ANSWER_MARGIN
        texts.append("" if refused else answer)
    return texts


def accepted_answers(data: LabeledTexts) -> list[tuple[str, ...]]:
    """Return the accepted answers of each question; none where the text does not answer it.

    Args:
        data: labels are JSON lists of answers.

    Raises:
        InputFileError: a label that is no JSON list of texts.
    """
    accepted = []
    for row, label in enumerate(data.labels or ()):
        answers = _answers(label)
        if answers is None:
            raise InputFileError(
                f"{data.name}: sample {row + 1} has label {label[:40]!r}; spans want a JSON list of answers."
            )
        accepted.append(answers)
    return accepted


def _answers(label: str) -> tuple[str, ...] | None:
    """Answers of a label; None where it is no JSON list of texts."""
    try:
        answers = json.loads(label)
    except (ValueError, RecursionError):
        return None
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        return None
    return tuple(answers)


def _windows(reader: TextReader, text: tuple[str, ...], index: int) -> tuple[Any, list[str]]:
    """Tokenize a question with each window of its text; returns all windows, and the names of the model's inputs."""
    check_texts("spans", text, index, 2, "a question and the text that is searched")
    tokenizer = reader.tokenizer
    question = len(tokenizer(text[0], add_special_tokens=False, verbose=False)["input_ids"])
    room = reader.longest - question - tokenizer.num_special_tokens_to_add(pair=True)
    if room < 1:
        raise InputFileError(f"sample {index + 1}: the question alone fills the model's {reader.longest} tokens.")
    encoded = tokenizer(
        *text, truncation="only_second", max_length=reader.longest, stride=min(OVERLAP_TOKENS, room // 2),
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip
    if not any(_searched(encoded, 0)):
        raise InputFileError(f"sample {index + 1}: the text that is searched has no token.")
    extra = ("offset_mapping", "overflow_to_sample_mapping")
    return encoded, [name for name in encoded if name not in extra]


def _searched(encoded: Any, number: int) -> list[bool]:
    """Mark the tokens of the text that is searched, `[T]`, in one window."""
    return [which == 1 for which in encoded.sequence_ids(number)]


def _none_token(reader: TextReader, ids: Sequence[int]) -> int | None:
    """Place of the token that stands for no answer."""
    special = reader.tokenizer.cls_token_id
    return list(ids).index(special) if special in ids else None


def _offsets(encoded: Any, number: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    offsets = np.array(encoded["offset_mapping"][number], dtype=np.int32)
    offsets[~np.array(_searched(encoded, number))] = 0
    return offsets


def _right_tokens(windows: Sequence[SpanWindow]) -> list[int]:
    """Right start and end of each window of one question, `[2 * windows]`."""
    text, accepted = windows[0].text, windows[0].accepted
    answer = accepted[0] if accepted else ""
    nowhere = [NONE if window.none is None else window.none for window in windows]
    if not answer.strip():
        return [token for none in nowhere for token in (none, none)]
    start = text.find(answer)
    held = [None if start < 0 else _held(window, start, start + len(answer)) for window in windows]
    if not any(held):
        return [NONE] * 2 * len(windows)
    return [token for place, none in zip(held, nowhere, strict=True) for token in place or (none, none)]


def _held(window: SpanWindow, start: int, end: int) -> tuple[int, int] | None:
    """First and last token of the characters `[start, end)` of a text; None where the window has not all of them."""
    inside = np.flatnonzero((window.offsets[:, 0] < end) & (window.offsets[:, 1] > start))
    if not len(inside):
        return None
    first, last = int(inside[0]), int(inside[-1])
    whole = window.offsets[first, 0] <= start and window.offsets[last, 1] >= end
    return (first, last) if whole else None


def _best_span(start: torch.Tensor, end: torch.Tensor, window: SpanWindow) -> tuple[float, str]:
    """Score and text of the best allowed span of a window; `start` and `end` are float64 `[T]`."""
    if window.none is not None:
        start, end = start.clone(), end.clone()
        start[window.none] = end[window.none] = -torch.inf
    both = start[:, None] + end[None, :]
    allowed = torch.ones_like(both, dtype=torch.bool).triu().tril(LONGEST_ANSWER - 1)
    both = both.masked_fill(~allowed, -torch.inf)
    first, last = divmod(int(both.argmax()), both.shape[1])
    text = window.text[window.offsets[first, 0] : window.offsets[last, 1]]
    return float(both[first, last]), text
