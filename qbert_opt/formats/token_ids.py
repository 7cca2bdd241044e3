"""Checks of a tokenizer before it is written beside a model's table."""

from __future__ import annotations

import json
from typing import Any

from ..errors import UsageError


def tokenizer_document(tokenizer: Any) -> dict[str, Any]:
    """Return the content of a tokenizer's `tokenizer.json`; empty if it has none.

    Args:
        tokenizer: a transformers tokenizer.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return {} if backend is None else dict(json.loads(backend.to_str()))


def tokens_by_id(tokenizer: Any, target: str, rows: int) -> dict[int, str]:
    """Return the tokens of a tokenizer by their ids.

    Args:
        tokenizer: a transformers tokenizer.
        target: what the model is converted for, for messages.
        rows: rows of the model's table.

    Raises:
        UsageError: a token has no row.
    """
    by_id = {index: token for token, index in tokenizer.get_vocab().items()}
    if max(by_id) >= rows:
        raise UsageError(
            f"{target}: the tokenizer has the id {max(by_id)}, but the model's table has {rows} rows. Give the "
            "tokenizer that the model was trained with."
        )
    return by_id
