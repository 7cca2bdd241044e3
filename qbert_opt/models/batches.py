"""Texts to token batches: sorted by length so that little is padded, with the order to undo it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..data.cells import words
from ..errors import InputFileError

DEFAULT_MAX_TOKENS = 128
MAX_SPAN_TOKENS = 384  # a question and its paragraph
MASKED_SHARE = 0.15  # of a text's tokens, as in BERT's pre-training


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Token ids and mask of a few samples, padded to the longest of them.

    Attributes:
        inputs: what the tokenizer made for the model, each int64 `[B, T]`.
        indices: position of each sample in the list of texts, `[B]`.
        positions: bool `[B, T]`, True where a label belongs: first sub-words for tags, the searched text for spans,
            masked tokens for vocabularies; None where labels belong to samples.
    """

    inputs: dict[str, torch.Tensor]
    indices: tuple[int, ...]
    positions: torch.Tensor | None = None

    @property
    def mask(self) -> torch.Tensor:
        """Bool `[B, T]`: True at real tokens. Padding must not enter any statistic."""
        return self.inputs["attention_mask"].bool()

    @property
    def labelled(self) -> torch.Tensor:
        """Positions that carry a label, bool `[B, T]`."""
        if self.positions is None:
            raise ValueError("these batches have labels per sample, not per position")
        return self.positions

    def select(self, wanted: Sequence[bool]) -> TokenBatch:
        """Take some of the samples, padded as in this batch."""
        rows = torch.tensor(wanted)
        inputs = {key: value[rows] for key, value in self.inputs.items()}
        indices = tuple(index for index, take in zip(self.indices, wanted, strict=True) if take)
        return TokenBatch(inputs, indices, None if self.positions is None else self.positions[rows])

    def split(self, size: int) -> Iterator[TokenBatch]:
        """Cut into batches of at most `size` samples, padded as this one."""
        for start in range(0, len(self.indices), size):
            rows = slice(start, start + size)
            inputs = {key: value[rows] for key, value in self.inputs.items()}
            yield TokenBatch(inputs, self.indices[rows], None if self.positions is None else self.positions[rows])


def tokenize(
    tokenizer: Any,
    texts: Sequence[tuple[str, ...]],
    *,
    batch_size: int,
    max_tokens: int | None = None,
    kind: str = "classes",
) -> list[TokenBatch]:
    """Tokenize texts into batches of similar length, shortest first; longer ones are cut.

    Args:
        tokenizer: the model's.
        texts: one tuple of one or two strings per sample; for spans a question and the text that is searched, for tags
            one string whose words are separated by blanks.
        batch_size: samples in a batch.
        max_tokens: longest sample; 384 for spans, else 128.
        kind: of the model's outputs; says which positions carry labels.

    Raises:
        InputFileError: texts that do not fit the kind of outputs.
    """
    if hasattr(tokenizer, "batches"):  # ready samples of a plain module
        return list(tokenizer.batches(texts, batch_size, positions=kind in ("tags", "vocabulary")))
    longest = longest_sample(tokenizer, kind, max_tokens)
    encoded, positions = [], []
    for index, text in enumerate(texts):
        sample, where = _encode(tokenizer, text, index, kind, longest)
        encoded.append(sample)
        positions.append(where)
    order = sorted(range(len(texts)), key=lambda i: (len(encoded[i]["input_ids"]), i))
    batches = []
    for chunk in _chunks(order, batch_size):
        padded = dict(tokenizer.pad([encoded[i] for i in chunk], return_tensors="pt"))
        where = _pad_positions([positions[i] for i in chunk], padded["input_ids"].shape[1], tokenizer.padding_side)
        batches.append(TokenBatch(padded, tuple(chunk), where))
    return batches


def longest_sample(tokenizer: Any, kind: str, max_tokens: int | None = None) -> int:
    """Return the tokens at which texts are cut: 384 for spans, else 128, at most what the model has positions for."""
    limit = max_tokens or (MAX_SPAN_TOKENS if kind == "spans" else DEFAULT_MAX_TOKENS)
    return int(min(limit, tokenizer.model_max_length))


def encode(tokenizer: Any, text: tuple[str, ...], kind: str, longest: int) -> Any:
    """Tokenize one sample as its kind of output wants it, with everything that the tokenizer knows of each token."""
    if kind == "tags":
        return tokenizer(words(text[0]), truncation=True, max_length=longest, is_split_into_words=True)
    cut = "only_second" if kind == "spans" else True
    return tokenizer(*text, truncation=cut, max_length=longest)


def span_positions(encoded: Any) -> list[bool]:
    """True at the tokens of the text that is searched, the second of a pair."""
    return [which == 1 for which in encoded.sequence_ids(0)]


def word_positions(encoded: Any) -> list[bool]:
    """True at the first sub-word of each word."""
    words = encoded.word_ids(0)
    return [word is not None and (i == 0 or words[i - 1] != word) for i, word in enumerate(words)]


def mean_tokens(batches: Sequence[TokenBatch]) -> float:
    """Return the mean number of real tokens per sample."""
    total = sum(int(batch.mask.sum()) for batch in batches)
    return total / sum(len(batch.indices) for batch in batches)


def single_samples(batches: Sequence[TokenBatch]) -> list[TokenBatch]:
    """Cut batches into batches of one sample, without padding."""
    singles = []
    for batch in batches:
        for row, index in enumerate(batch.indices):
            keep = batch.mask[row]
            inputs = {
                name: tensor[row : row + 1, keep] if tensor.shape[1:2] == keep.shape else tensor[row : row + 1]
                for name, tensor in batch.inputs.items()
            }
            where = None if batch.positions is None else batch.positions[row : row + 1, keep]
            singles.append(TokenBatch(inputs, (index,), where))
    return singles


def joined(singles: Sequence[TokenBatch]) -> TokenBatch:
    """Join samples to one batch, padded to the longest, pads masked out."""
    length = max(single.mask.shape[1] for single in singles)

    def padded(tensor: torch.Tensor, tokens: int) -> torch.Tensor:
        if tensor.shape[1:2] != (tokens,):  # one value per sample, not per token
            return tensor
        return torch.nn.functional.pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, length - tokens))

    inputs = {
        key: torch.cat([padded(single.inputs[key], single.mask.shape[1]) for single in singles])
        for key in singles[0].inputs
    }
    positions = None
    if singles[0].positions is not None:
        positions = torch.cat([padded(single.labelled, single.mask.shape[1]) for single in singles])
    return TokenBatch(inputs, tuple(index for single in singles for index in single.indices), positions)


def apart(batches: Sequence[TokenBatch], chosen: frozenset[int]) -> list[TokenBatch]:
    """Batch samples again, as many together and as alike in length, but the chosen apart from the others.

    Where no batch has padding, none is made: a model may not know how to leave it out.
    """
    if not batches:
        return []
    size = max(len(batch.indices) for batch in batches)
    pads = any(not bool(batch.mask.all()) for batch in batches)
    kinds: dict[tuple[bool, int], list[TokenBatch]] = {}
    for single in sorted(single_samples(batches), key=lambda single: single.mask.shape[1]):
        length = 0 if pads else single.mask.shape[1]
        kinds.setdefault((single.indices[0] not in chosen, length), []).append(single)
    return [
        joined(same[start : start + size]) for _, same in sorted(kinds.items()) for start in range(0, len(same), size)
    ]


@torch.no_grad()
def logits(model: torch.nn.Module, batches: Sequence[TokenBatch]) -> torch.Tensor:
    """Run the model over all batches; returns float32 `[N, C]` in the order of the texts."""
    rows: dict[int, torch.Tensor] = {}
    for batch in batches:
        for index, row in zip(batch.indices, model(**batch.inputs).logits, strict=True):
            rows[index] = row
    return torch.stack([rows[index] for index in range(len(rows))])


def _encode(tokenizer: Any, text: tuple[str, ...], index: int, kind: str, longest: int) -> tuple[Any, Any]:
    """Tokens of one sample and its labelled positions."""
    wanted = {"tags": 1, "spans": 2, "vocabulary": 1}.get(kind)
    if wanted is not None and len(text) != wanted:
        need = "a question and the text that is searched" if wanted == 2 else "one text"
        raise InputFileError(f"sample {index + 1} has {len(text)} texts; a model of {kind} reads {need}.")
    encoded = encode(tokenizer, text, kind, longest)
    if kind == "tags":
        return encoded, word_positions(encoded)
    if kind == "spans":
        where = span_positions(encoded)
        if not any(where):
            raise InputFileError(f"sample {index + 1}: the question alone fills the model's {longest} tokens.")
        return encoded, where
    if kind == "vocabulary":
        return encoded, _mask_tokens(tokenizer, encoded, index)
    return encoded, None


def _mask_tokens(tokenizer: Any, encoded: Any, index: int) -> list[bool]:
    """Mask 15 % of a text's tokens, at least one; a text that has masks already keeps those. Changes `encoded`."""
    if tokenizer.mask_token_id is None:
        raise InputFileError("the model fills masks, but its tokenizer has no mask token. Save it with one.")
    ids = np.array(encoded["input_ids"])
    masked = ids == tokenizer.mask_token_id
    if not masked.any():
        special = np.array(tokenizer.get_special_tokens_mask(ids.tolist(), already_has_special_tokens=True), dtype=bool)
        words = np.flatnonzero(~special)
        count = min(len(words), max(1, round(MASKED_SHARE * len(words))))
        chosen = np.random.default_rng([index, *ids.tolist()]).choice(words, count, replace=False)
        masked[chosen] = True
        ids[chosen] = tokenizer.mask_token_id
        encoded["input_ids"] = ids.tolist()
    return [bool(m) for m in masked]


def _pad_positions(positions: list[list[bool] | None], length: int, side: str) -> torch.Tensor | None:
    if positions[0] is None:
        return None
    rows = []
    for where in positions:
        blank = [False] * (length - len(where or ()))
        rows.append(blank + (where or []) if side == "left" else (where or []) + blank)
    return torch.tensor(rows, dtype=torch.bool)


def _chunks(order: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(order), size):
        yield order[start : start + size]
