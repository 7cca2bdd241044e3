"""Decoders (causal language models): one row per predicted token, logits over the vocabulary.

Position t predicts token t + 1, so a text of T tokens has T - 1 rows; the token after the last position is unknown. If
the tokenizer puts a special token first (`<s>`), that token predicts the text's first one.

A text longer than the limit is read in windows that share one token: each begins, after the special first tokens, with
the last token of the one before, so that every token of the text is predicted exactly once. The first tokens of a
window have less context than in the whole text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from ...data.texts import LabeledTexts
from ...errors import InputFileError, UsageError
from ..samples import Outputs, Targets, TokenBatch
from .losses import KL, cross_entropy
from .protocol import HeadKind, Quality, Sample, TextReader, check_texts, per_text, right_rows

WINDOW_TOKENS = 512  # as llama.cpp measures perplexity
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


class NextTokens(HeadKind):
    """Next-token prediction. The labels are the texts' own tokens."""

    kind = "next_tokens"
    ending = "ForCausalLM"
    other_endings = ("LMHeadModel",)
    auto_class = AutoModelForCausalLM
    row = "predicted token"
    loss = KL()
    loss_unit = "nats of KL(reference || quantized) per predicted token"
    positions = True
    default_tokens = WINDOW_TOKENS
    figures = (("perplexity", "perplexity [95 %]"), ("agreement", "top-1 agreement [95 %]"))

    def columns(self, config: Any) -> int:
        """Return the size of the vocabulary."""
        return int(getattr(config, "vocab_size", 0))

    def check(self, config: Any, name: str) -> None:
        """Refuse decoders with an encoder, without attention, or with several experts per layer."""
        kind = getattr(config, "model_type", "")
        if getattr(config, "is_encoder_decoder", False):
            raise InputFileError(f"{name}: {kind} has an encoder and a decoder; such models are not supported.")
        if not getattr(config, "num_attention_heads", None):
            raise InputFileError(f"{name}: {kind} has no attention layers; only decoders with attention are supported.")
        experts = next((field for field in EXPERTS if (getattr(config, field, None) or 0) > 1), None)
        if experts is not None:
            raise InputFileError(
                f"{name}: {kind} is a mixture of experts ({experts} {getattr(config, experts)}), whose matrices see "
                "only some of the tokens; such models are not supported."
            )

    def read(self, model: nn.Module, batch: TokenBatch) -> torch.Tensor:
        """Return the logits, `[B, T, columns]`; keys and values are not kept."""
        answer: torch.Tensor = model(**batch.inputs, use_cache=False).logits
        return answer

    def samples(self, reader: TextReader, text: tuple[str, ...], index: int) -> list[Sample]:
        """Tokenize one text into one sample, or into windows of at most `reader.longest` tokens."""
        check_texts(self.kind, text, index, 1, "one text")
        tokenizer = reader.tokenizer
        ids = list(tokenizer(text[0], verbose=False)["input_ids"])
        first = _num_special_first(tokenizer, ids)
        room = reader.longest - first
        if room < 2:
            raise InputFileError(f"sample {index + 1}: {reader.longest} tokens leave no room for text.")
        samples, special, body = [], ids[:first], ids[first:]
        for start in range(0, max(1, len(body) - 1), room - 1):
            window = [*special, *body[start : start + room]]
            least = first + (start > 0)  # of the tokens that are predicted here
            predicted = [least <= place + 1 < len(window) for place in range(len(window))]
            samples.append(Sample({"input_ids": window, "attention_mask": [1] * len(window)}, predicted))
        return samples

    def targets(self, reader: TextReader, data: LabeledTexts, batches: Sequence[TokenBatch]) -> Targets | None:
        """Return the token after each position; None for ready samples of a plain module."""
        if reader.given:
            return None
        behind: dict[int, torch.Tensor] = {}
        for batch in batches:
            following = batch.inputs["input_ids"].roll(-1, 1)
            for row, index in enumerate(batch.indices):
                behind[index] = following[row][batch.labelled[row]]
        order = sorted(behind)
        counts = torch.tensor([len(behind[index]) for index in order])
        return Targets(
            self.kind, torch.cat([behind[index] for index in order]), torch.tensor(order).repeat_interleave(counts)
        )

    def quality(self, outputs: Outputs, targets: Targets) -> Quality:
        """Return cross-entropy (perplexity is its exponential), and how often the most probable token is right."""
        nats = cross_entropy(outputs.values, targets.rows)
        return Quality(accuracy=right_rows(outputs, targets), cross_entropy=per_text(outputs, nats))

    def label_names(self, data: LabeledTexts) -> list[str]:
        """The names of the outputs are the tokenizer's vocabulary.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"kind {self.kind!r}: fine-tuning learns classes, tags or spans.")


def _num_special_first(tokenizer: Any, ids: list[int]) -> int:
    """Return how many of a text's first tokens are special ones that the tokenizer adds, such as `<s>`."""
    marks = tokenizer.get_special_tokens_mask(ids, already_has_special_tokens=True)
    leading = next((place for place, mark in enumerate(marks) if not mark), len(marks))
    return int(min(leading, tokenizer.num_special_tokens_to_add(pair=False)))
