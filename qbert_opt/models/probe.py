"""A dry run of tokenizer and model at loading, to report problems that would otherwise appear late or not at all.

Two texts of different length, and a pair, must give the same outputs in one batch as alone. The longest possible text
with the highest token id is run only up to the first block, which is cheap: position and token embeddings are looked up
before it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..errors import InputFileError
from .batches import run, tokenize
from .folder_files import first_line
from .layers import largest_module_list
from .outputs import Head, collect
from .samples import IMPOSSIBLE, TokenBatch

logger = logging.getLogger(__name__)
TOLERANCE = 1e-3  # relative to the largest output; float32 sums in another order differ by less than 1e-5
REFUSED = 0.1  # relative to the largest output; convolutions, which read padding at the end of a text, cause less
FALLBACK = ["turn", "the", "light", "on", "in", "the", "kitchen", "please", "and", "play", "a", "song"]
NUM_WORDS = 12
MOST_TOKENS = 1 << 16  # in the longest text
CAUSAL_TOKENS = 1 << 12  # in a decoder's longest text: its mask may have a number for each pair of tokens
LOOKED_AT = 400  # vocabulary entries searched for whole words


def probe(model: nn.Module, tokenizer: Any, head: Head, name: str) -> None:
    """Run a few texts through tokenizer and model.

    Args:
        model: in evaluation mode.
        tokenizer: set up for the model, see `tokenizers`.
        head: how the model's outputs are read.
        name: what the user called the model.

    Raises:
        InputFileError: tokenizer or model fails, or padding changes outputs.
    """
    words = known_words(tokenizer)
    texts = example_texts(words, head.kind)
    try:
        together = tokenize(tokenizer, texts, batch_size=len(texts), kind=head.kind)
        alone = tokenize(tokenizer, texts, batch_size=1, kind=head.kind)
        check_batching(head, model, together, alone, name)
        if head.kind == "next_tokens":
            check_causal(head, model, alone[-1], name)
        _look_up(model, _longest(tokenizer, words, CAUSAL_TOKENS if head.kind == "next_tokens" else MOST_TOKENS))
    except InputFileError:
        raise
    except Exception as error:
        raise InputFileError(
            f"{name}: tokenizer and model do not match: {type(error).__name__}: {first_line(error)}. Save both "
            "from the same training run."
        ) from None


def check_batching(
    head: Head, model: nn.Module, together: Sequence[TokenBatch], alone: Sequence[TokenBatch], name: str
) -> None:
    """Check that samples have the same outputs in batches as alone.

    Differences above `TOLERANCE` of the largest output are logged as a warning, above `REFUSED` they are an error.

    Args:
        head: how the model's outputs are read.
        model: in evaluation mode.
        together: several samples per batch.
        alone: the same samples, one per batch.
        name: what the user called the model.

    Raises:
        InputFileError: the outputs differ, or are NaN or infinite.
    """
    beside, single = collect(head, model, together).values, collect(head, model, alone).values
    if beside.shape != single.shape:
        raise InputFileError(
            f"{name}: outputs have shape {tuple(beside.shape)} in a batch and {tuple(single.shape)} one by one."
        )
    if not (torch.isfinite(beside).all() and torch.isfinite(single).all()):
        raise InputFileError(f"{name}: the outputs for a short text are NaN or infinite. Repair or retrain the model.")
    largest = single[single > IMPOSSIBLE].abs().max() if (single > IMPOSSIBLE).any() else single.new_zeros(())
    difference = (beside - single).abs().max()
    if difference <= TOLERANCE * largest:
        return
    share = float(difference / largest)
    if share > REFUSED:
        raise InputFileError(
            f"{name}: a sample's outputs change by {difference:.2g} when batched with a longer one (largest output "
            f"{largest:.2g}), so padding changes them. The attention mask must exclude padding."
        )
    logger.warning(
        "warning: %s: batching with a longer text changes outputs by %.1f %%, as in convolutions or rounded inputs",
        name, 100 * share,
    )  # fmt: skip


@torch.no_grad()
def check_causal(head: Head, model: nn.Module, batch: TokenBatch, name: str) -> None:
    """Check that no token of a decoder sees later ones: half a text must have the same outputs as within the whole.

    Args:
        head: how the model's outputs are read.
        model: in evaluation mode.
        batch: one text without padding.
        name: what the user called the model.

    Raises:
        InputFileError: the outputs differ.
    """
    half = max(1, batch.mask.shape[1] // 2)
    part = replace(batch, inputs={key: tensor[:, :half] for key, tensor in batch.inputs.items()})
    whole, cut = head.read(model, batch)[:, :half], head.read(model, part)
    if (whole - cut).abs().max() > TOLERANCE * whole.abs().max():
        raise InputFileError(
            f"{name}: its tokens see later ones, so it is not a decoder. Correct its class or its config."
        )


class _Reached(Exception):
    """Ends a forward pass at the first block, after all embeddings have been looked up."""


@torch.no_grad()
def _look_up(model: nn.Module, batch: TokenBatch) -> None:
    """Run a batch up to the model's first block."""

    def stop(_module: nn.Module, _args: object) -> None:
        raise _Reached

    blocks = largest_module_list(model)
    handles = [model.get_submodule(name).register_forward_pre_hook(stop) for name in blocks]
    try:
        run(model, batch)
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()


def _longest(tokenizer: Any, words: Sequence[str], most: int) -> TokenBatch:
    """Return a sample that fills the model's window, up to a limit, and contains the highest token id."""
    window = min(int(tokenizer.model_max_length), most)
    text = " ".join(words[index % len(words)] for index in range(window))
    [batch] = tokenize(tokenizer, [(text,)], batch_size=1, max_tokens=window)
    ids = batch.inputs["input_ids"].clone()
    ids[0, ids.shape[1] // 2] = max(tokenizer.get_vocab().values())
    return TokenBatch({**batch.inputs, "input_ids": ids}, batch.indices)


def known_words(tokenizer: Any) -> list[str]:
    """Return a few whole words of the tokenizer's vocabulary, spread over all of it.

    Args:
        tokenizer: as `load_tokenizer` returned it.
    """
    ids = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
    step = max(1, len(ids) // LOOKED_AT)
    decoded = (tokenizer.decode([index]).strip() for index in ids[::step][:LOOKED_AT])
    words = [word for word in decoded if word.isalnum()]
    spread = words[:: max(1, len(words) // NUM_WORDS)][:NUM_WORDS]
    return spread if len(spread) >= 4 else FALLBACK


def example_texts(words: Sequence[str], kind: str) -> list[tuple[str, ...]]:
    """Return texts of different length for the kind of head, with pairs if it reads pairs.

    Args:
        words: at least four words.
        kind: kind of the head.
    """
    short, long = " ".join(words[:2]), " ".join(words)
    if kind == "spans":
        return [(short, " ".join(words[:4])), (short, long)]
    texts: list[tuple[str, ...]] = [(short,), (long,)]
    return texts if kind in ("tags", "vocabulary", "next_tokens") else [*texts, (short, short)]
