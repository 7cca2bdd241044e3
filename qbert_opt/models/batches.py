"""Texts to token batches: sorted by length so that little is padded, with the order to undo it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

DEFAULT_MAX_TOKENS = 128


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Token ids and mask of a few samples, padded to the longest of them.

    Attributes:
        inputs: what the tokenizer made for the model, each int64 `[B, T]`.
        indices: position of each sample in the list of texts, `[B]`.
    """

    inputs: dict[str, torch.Tensor]
    indices: tuple[int, ...]

    @property
    def mask(self) -> torch.Tensor:
        """Bool `[B, T]`: True at real tokens. Padding must not enter any statistic."""
        return self.inputs["attention_mask"].bool()


def tokenize(
    tokenizer: Any,
    texts: Sequence[tuple[str, ...]],
    *,
    batch_size: int,
    max_tokens: int = DEFAULT_MAX_TOKENS,
) -> list[TokenBatch]:
    """Tokenize texts into batches of similar length, shortest first; longer ones are cut."""
    longest = min(max_tokens, tokenizer.model_max_length)
    encoded = [tokenizer(*text, truncation=True, max_length=longest) for text in texts]
    order = sorted(range(len(texts)), key=lambda i: (len(encoded[i]["input_ids"]), i))
    batches = []
    for chunk in _chunks(order, batch_size):
        padded = tokenizer.pad([encoded[i] for i in chunk], return_tensors="pt")
        batches.append(TokenBatch(dict(padded), tuple(chunk)))
    return batches


def mean_tokens(batches: Sequence[TokenBatch]) -> float:
    """Return the mean number of real tokens per sample."""
    total = sum(int(batch.mask.sum()) for batch in batches)
    return total / sum(len(batch.indices) for batch in batches)


@torch.no_grad()
def logits(model: torch.nn.Module, batches: Sequence[TokenBatch]) -> torch.Tensor:
    """Run the model over all batches; returns float32 `[N, C]` in the order of the texts."""
    rows: dict[int, torch.Tensor] = {}
    for batch in batches:
        for index, row in zip(batch.indices, model(**batch.inputs).logits, strict=True):
            rows[index] = row
    return torch.stack([rows[index] for index in range(len(rows))])


def _chunks(order: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(order), size):
        yield order[start : start + size]
