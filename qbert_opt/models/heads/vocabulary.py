"""Masked language models: one row per masked token, logits over the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForMaskedLM

from ...data.texts import LabeledTexts
from ...errors import InputFileError, UsageError
from ..samples import Outputs, Targets, TokenBatch
from .losses import KL
from .protocol import HeadKind, Quality, Sample, TextReader, check_texts, right_rows, whole_or_cut

MASKED_SHARE = 0.15  # of a text's tokens, as in BERT's pre-training


class Vocabulary(HeadKind):
    """Masked language modelling. Texts without masks get some, by a seed derived from the text."""

    kind = "vocabulary"
    ending = "ForMaskedLM"
    auto_class = AutoModelForMaskedLM
    row = "masked token"
    loss = KL()
    loss_unit = "nats of KL(reference || quantized) per masked token"
    positions = True
    figures = (("accuracy", "masks filled [95 %]"),)

    def columns(self, config: Any) -> int:
        """Return the size of the vocabulary."""
        return int(getattr(config, "vocab_size", 0))

    def samples(self, reader: TextReader, text: tuple[str, ...], index: int) -> list[Sample]:
        """Tokenize one text and mask 15 % of its tokens, at least one; a text that has masks keeps those."""
        check_texts(self.kind, text, index, 1, "one text")
        sample = whole_or_cut(reader, text)
        return [Sample(*_masked(reader.tokenizer, dict(sample.encoded), index), sample.lost)]

    def targets(self, reader: TextReader, data: LabeledTexts, batches: Sequence[TokenBatch]) -> Targets | None:
        """Return the original tokens at the masks; None if the texts already contained masks."""
        if reader.given:
            return None
        behind: dict[int, torch.Tensor] = {}
        for batch in batches:
            for row, index in enumerate(batch.indices):
                original = torch.tensor(whole_or_cut(reader, data.texts[index]).encoded["input_ids"])
                behind[index] = original[batch.labelled[row][batch.mask[row]]]
        rows = torch.cat([behind[index] for index in sorted(behind)])
        if (rows == reader.tokenizer.mask_token_id).any():
            return None
        counts = torch.tensor([len(behind[index]) for index in sorted(behind)])
        return Targets(self.kind, rows, torch.arange(len(data)).repeat_interleave(counts))

    def quality(self, outputs: Outputs, targets: Targets) -> Quality:
        """Share of masks filled with the original token."""
        return Quality(accuracy=right_rows(outputs, targets))

    def label_names(self, data: LabeledTexts) -> list[str]:
        """The names of the outputs are the tokenizer's vocabulary.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"kind {self.kind!r}: fine-tuning learns classes, tags or spans.")


def _masked(tokenizer: Any, encoded: dict[str, Any], index: int) -> tuple[dict[str, Any], list[bool]]:
    """Mask tokens of a text; returns the text and marks of the masked tokens."""
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
    return encoded, [bool(mask) for mask in masked]
