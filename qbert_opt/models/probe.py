"""A dry run of tokenizer and model at loading: what would go wrong after an hour, or silently, is said at once.

Two texts of different length and a pair answer beside each other as each does alone; the longest text and the highest
token number are looked up in the embeddings. The short texts go through the whole model, the longest one only as far
as its first block: that is where positions and token numbers are looked up, and it costs next to nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..errors import InputFileError
from .batches import tokenize
from .folder_files import first_line
from .layers import largest_module_list
from .outputs import Head, collect
from .samples import IMPOSSIBLE, TokenBatch

logger = logging.getLogger(__name__)
TOLERANCE = 1e-3  # of the largest answer; float32 sums in another order differ by less than 1e-5 of it
REFUSED = 0.1  # of the largest answer; convolutions read padding at the end of a text, and move it by less
FALLBACK = ["turn", "the", "light", "on", "in", "the", "kitchen", "please", "and", "play", "a", "song"]
NUM_WORDS = 12
LOOKED_AT = 400  # vocabulary entries among which whole words are looked for


def probe(model: nn.Module, tokenizer: Any, head: Head, name: str) -> None:
    """Run a few texts through tokenizer and model.

    Args:
        model: in evaluation mode.
        tokenizer: fitted to it, see `tokenizers`.
        head: how its answers are read.
        name: what the user called the model.

    Raises:
        InputFileError: tokenizer or model fails, or texts answer differently beside others; one line.
    """
    words = known_words(tokenizer)
    texts = _texts(words, head.kind)
    try:
        together = tokenize(tokenizer, texts, batch_size=len(texts), kind=head.kind)
        alone = tokenize(tokenizer, texts, batch_size=1, kind=head.kind)
        check_batching(head, model, together, alone, name)
        _look_up(model, _longest(tokenizer, words))
    except InputFileError:
        raise
    except Exception as error:
        raise InputFileError(
            f"{name}: tokenizer and model do not go together: {type(error).__name__}: {first_line(error)}. Save both "
            "from the same training run."
        ) from None


def check_batching(
    head: Head, model: nn.Module, together: Sequence[TokenBatch], alone: Sequence[TokenBatch], name: str
) -> None:
    """Check that samples answer in batches as they do alone, to `TOLERANCE` of the largest answer.

    What differs by more is said, and by more than `REFUSED` refused.

    Args:
        head: how answers are read.
        model: in evaluation mode.
        together: samples beside each other.
        alone: the same samples, one to a batch.
        name: what the user called the model.

    Raises:
        InputFileError: they do not, or answers are no numbers.
    """
    beside, single = collect(head, model, together).values, collect(head, model, alone).values
    if beside.shape != single.shape:
        raise InputFileError(
            f"{name}: answers with {tuple(beside.shape)} numbers in a batch and {tuple(single.shape)} one by one."
        )
    if not (torch.isfinite(beside).all() and torch.isfinite(single).all()):
        raise InputFileError(f"{name}: answers a short text with NaN or infinite values. Repair or re-train the model.")
    largest = single[single > IMPOSSIBLE].abs().max() if (single > IMPOSSIBLE).any() else single.new_zeros(())
    difference = (beside - single).abs().max()
    if difference <= TOLERANCE * largest:
        return
    share = float(difference / largest)
    if share > REFUSED:
        raise InputFileError(
            f"{name}: a sample answers differently beside a longer one (by {difference:.2g}; answers reach "
            f"{largest:.2g}), so padding changes it. The attention mask must leave padding out."
        )
    logger.warning("warning: %s: padding changes its answers by %.1f %%, as convolutions do", name, 100 * share)


class _Reached(Exception):
    """The first block was reached: everything was looked up."""


@torch.no_grad()
def _look_up(model: nn.Module, batch: TokenBatch) -> None:
    """Run a batch as far as the model's first block."""

    def stop(_module: nn.Module, _args: object) -> None:
        raise _Reached

    blocks = largest_module_list(model)
    handles = [model.get_submodule(name).register_forward_pre_hook(stop) for name in blocks]
    try:
        model(**batch.inputs)
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()


def _longest(tokenizer: Any, words: Sequence[str]) -> TokenBatch:
    """One sample that fills the model's window, with the highest token number in it."""
    window = min(int(tokenizer.model_max_length), 1 << 16)
    text = " ".join(words[index % len(words)] for index in range(window))
    [batch] = tokenize(tokenizer, [(text,)], batch_size=1, max_tokens=window)
    ids = batch.inputs["input_ids"].clone()
    ids[0, ids.shape[1] // 2] = max(tokenizer.get_vocab().values())
    return TokenBatch({**batch.inputs, "input_ids": ids}, batch.indices)


def known_words(tokenizer: Any) -> list[str]:
    """Return a few whole words that the tokenizer knows, from all over its vocabulary."""
    ids = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
    step = max(1, len(ids) // LOOKED_AT)
    decoded = (tokenizer.decode([index]).strip() for index in ids[::step][:LOOKED_AT])
    words = [word for word in decoded if word.isalnum()]
    spread = words[:: max(1, len(words) // NUM_WORDS)][:NUM_WORDS]
    return spread if len(spread) >= 4 else FALLBACK


def _texts(words: Sequence[str], kind: str) -> list[tuple[str, ...]]:
    """Texts of different length that the kind of head reads, pairs among them where it reads pairs."""
    short, long = " ".join(words[:2]), " ".join(words)
    if kind == "spans":
        return [(short, " ".join(words[:4])), (short, long)]
    texts: list[tuple[str, ...]] = [(short,), (long,)]
    return texts if kind in ("tags", "vocabulary") else [*texts, (short, short)]
